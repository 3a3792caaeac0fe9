"""Programs that share a GPU: at the same time where the service can be had, else in turns.

The service itself needs a GPU.  Elsewhere a small program stands in for it, which is as broken as
the real one can be, or notes what it is told.
"""

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from cress_svcd.cli.main import main
from cress_svcd.recipes import children, gpu_sharing, runner
from cress_svcd.recipes.gpu_sharing import (
    PIPES,
    PROGRAM,
    ServiceError,
    can_be_started,
    started,
    variables_by_card,
)
from cress_svcd.recipes.recipe_file import load_recipe
from cress_svcd.recipes.runner import Runner, visible_gpus

SHOW = (
    "import os; e = os.environ;"
    "print(e.get('CUDA_MPS_PIPE_DIRECTORY', 'turns'), e['CUDA_VISIBLE_DEVICES'])"
)
USE = (
    "import os, subprocess, time, torch;"
    "torch.zeros(1, device='cuda'); time.sleep(5);"
    "servers = subprocess.run(['nvidia-cuda-mps-control'], input='get_server_list\\n',"
    " capture_output=True, text=True).stdout.split();"
    "print(torch.cuda.device_count(), os.environ['CUDA_MPS_PIPE_DIRECTORY'], *servers)"
)
# Says what it is told to, listens, answers, and ends when it is told to quit.
STAND_IN = """
pipes="$CUDA_MPS_PIPE_DIRECTORY"
if [ "$1" = -f ]; then
    echo "start $CUDA_VISIBLE_DEVICES" >> {notes}
    echo $$ > "$pipes/process"; echo $$ >> {processes}; touch "$pipes/control"
    exec sleep 600
fi
read command
if ! kill -0 $(cat "$pipes/process") 2> /dev/null; then
    echo "Cannot find MPS control daemon process"; exit 1
fi
echo "$command" >> {notes}
case "$command" in
    get_server_list) echo 4711;;
    quit*) kill $(cat "$pipes/process");;
esac
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program of the service's name on the PATH, where nobody else's service is at work."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv(PIPES, raising=False)
    monkeypatch.setattr(gpu_sharing, "USUAL_PIPES", tmp_path / "none")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def write(text: str) -> Path:
        file = folder / PROGRAM
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return file

    yield write
    assert list(temporary.iterdir()) == [], "a folder was left"


class StandIn:
    """The program that notes what it is told, where every card can be used."""

    def __init__(self, folder: Path):
        self.notes_file, self.processes_file = folder / "notes", folder / "processes"

    @property
    def notes(self) -> list[str]:
        return self.notes_file.read_text().splitlines() if self.notes_file.exists() else []

    def is_running(self) -> bool:
        """Whether any that was started still is."""
        for process in self.processes_file.read_text().split():
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                continue
            return True
        return False


@pytest.fixture
def stand_in(program, tmp_path, monkeypatch) -> StandIn:
    one = StandIn(tmp_path)
    program(STAND_IN.format(notes=one.notes_file, processes=one.processes_file))
    monkeypatch.setattr(gpu_sharing, "PROBE", "import sys; sys.argv[1]")
    return one


def write_recipe(folder: Path, code: str, groups: tuple[int, ...]) -> Path:
    """A recipe of a stage for each of ``groups``, of so many commands side by side."""
    command = ["{python}", "-c", code]
    content = {
        "name": "test",
        "about": "a test",
        "settings": {"out": str(folder / "out"), "python": sys.executable},
        "stages": [
            {
                "name": f"group-{number}",
                "does": "show",
                "together": True,
                "commands": [command] * commands,
                "output": f"{{out}}/{number}.txt",
            }
            for number, commands in enumerate(groups)
        ],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def printed(folder: Path, group: int = 0) -> list[list[str]]:
    """The words that each command of a group has printed."""
    lines = (folder / "out" / f"{group}.txt").read_text().splitlines()
    return [line.split() for line in lines if not line.startswith("$")]


def run_recipe(folder: Path, code: str, *flags: str, groups: tuple[int, ...] = (3,)) -> None:
    assert main(["recipe", str(write_recipe(folder, code, groups)), *flags]) == 0


class TestWhatProgramsAreTold:
    def test_without_service_cards_keep_their_names(self):
        told = variables_by_card(["4", "6"], {})
        assert told == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "6"}]

    def test_the_service_numbers_its_cards_anew(self):
        told = variables_by_card(["4", "6"], {PIPES: "/p"})
        assert [each["CUDA_VISIBLE_DEVICES"] for each in told] == ["0", "1"]
        assert [each[PIPES] for each in told] == ["/p", "/p"]

    @pytest.mark.parametrize("given, seen", [("-1", []), ("4,-1,6", ["4"]), ("", [])])
    def test_cards_that_are_hidden(self, given, seen):
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": given}) == seen


class TestWhetherThereIsOneToStart:
    def test_where_it_is_installed(self, program):
        program("exit 0")
        assert can_be_started(os.environ, ["0"])
        assert not can_be_started(os.environ, [])

    def test_where_it_is_not(self, tmp_path):
        assert not can_be_started({"PATH": str(tmp_path)}, ["0"])

    def test_not_where_one_is_at_work(self, stand_in):
        with started(os.environ, ["0"]) as service:
            assert not can_be_started({**os.environ, **service}, ["0"])

    def test_where_one_has_left_its_traces(self, stand_in, tmp_path, monkeypatch):
        (tmp_path / "control").touch()
        (tmp_path / "process").write_text("4194305")  # no process has that number
        assert can_be_started({**os.environ, PIPES: str(tmp_path)}, ["0"])
        monkeypatch.setattr(gpu_sharing, "USUAL_PIPES", tmp_path)
        assert can_be_started({**os.environ, PIPES: str(tmp_path)}, ["0"])

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
    def test_where_somebody_elses_is_closed_to_us(self, stand_in, tmp_path):
        closed = tmp_path / "closed"
        closed.mkdir(mode=0)
        assert can_be_started({**os.environ, PIPES: str(closed)}, ["0"])
        closed.chmod(0o700)

    def test_where_its_name_cannot_be_one(self, stand_in):
        assert can_be_started({**os.environ, PIPES: "/" + "x" * 300}, ["0"])

    def test_not_for_parts_of_a_card(self, program):
        program("exit 0")
        assert not can_be_started(os.environ, ["MIG-1"])


class TestOneThatServes:
    def test_commands_that_outnumber_the_cards_use_it(self, stand_in, tmp_path, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
        run_recipe(tmp_path, SHOW, groups=(3, 2, 1, 4))
        pipes, cards = zip(*printed(tmp_path), strict=True)
        assert cards == ("0", "1", "0")
        assert len({*pipes}) == 1 and Path(pipes[0]).name.startswith("cress-svcd-mps-")
        # The others have the cards for themselves.
        assert printed(tmp_path, 1) == [["turns", "4"], ["turns", "6"]]
        assert printed(tmp_path, 2) == [["turns", "4,6"]]
        assert [card for _, card in printed(tmp_path, 3)] == ["0", "1", "0", "1"]
        # Each group of commands has one of its own.
        assert stand_in.notes == ["start 4,6", "get_server_list", "quit -t 5"] * 2
        assert not stand_in.is_running()

    def test_it_ends_with_a_command_that_fails(self, stand_in, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
        assert main(["recipe", str(write_recipe(tmp_path, "raise SystemExit(3)", (2,)))]) == 2
        assert "failed with status 3" in capsys.readouterr().err
        assert not stand_in.is_running()

    def test_a_second_run_starts_another(self, stand_in, tmp_path, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
        one = Runner(load_recipe(write_recipe(tmp_path, SHOW, (2,))))
        one.run()
        first = printed(tmp_path)
        one.run(force=True)
        assert first[0][0] != printed(tmp_path)[0][0]
        assert not stand_in.is_running()


class TestOneThatCannotServe:
    def test_it_ends_at_once(self, program):
        program("echo 'An instance of this daemon is already running' >&2; exit 1")
        with pytest.raises(ServiceError, match="already running"):
            with started(os.environ, ["0"]):
                pass

    def test_it_never_listens(self, program, monkeypatch):
        monkeypatch.setattr(gpu_sharing, "START_SECONDS", 0.5)
        program("exec sleep 600")
        with pytest.raises(ServiceError, match="does not listen"):
            with started(os.environ, ["0"]):
                pass

    def test_no_folder_can_be_made_for_it(self, program, tmp_path, monkeypatch):
        program("exit 0")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
        with pytest.raises(ServiceError, match="missing.*No such file"):
            with started(os.environ, ["0"]):
                pass

    def test_the_reason_of_a_program_is_told_and_nothing_runs_on(self, stand_in, monkeypatch):
        monkeypatch.setattr(gpu_sharing, "PROBE", "import sys; sys.exit('busy')")
        with pytest.raises(ServiceError, match="cannot be used through it: busy$"):
            with started(os.environ, ["0"]):
                pass
        assert not stand_in.is_running()

    def test_a_program_that_does_not_find_it(self, stand_in, program, tmp_path):
        quiet = STAND_IN.replace("echo 4711", "true")
        program(quiet.format(notes=stand_in.notes_file, processes=stand_in.processes_file))
        with pytest.raises(ServiceError, match="do not use it"):
            with started(os.environ, ["0"]):
                pass
        assert not stand_in.is_running()

    def test_one_that_dies_after_the_first_group_is_noticed(
        self, stand_in, program, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
        once = tmp_path / "once"
        dying = (
            f"""
if [ "$1" = -f ] && [ -e {once} ]; then touch "$CUDA_MPS_PIPE_DIRECTORY/control"; exit 1; fi
touch {once}
"""
            + STAND_IN
        )
        program(dying.format(notes=stand_in.notes_file, processes=stand_in.processes_file))
        run_recipe(tmp_path, SHOW, groups=(3, 3))
        assert [card for _, card in printed(tmp_path)] == ["0", "1", "0"]
        assert printed(tmp_path, 1) == [["turns", "4"], ["turns", "6"], ["turns", "4"]]
        assert "commands take turns on a GPU" in capsys.readouterr().out

    def test_all_commands_that_broke_are_named(self, stand_in, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
        statuses = []

        def heartbeat(log):
            """Lets the runner look when both have ended."""
            deadline = time.monotonic() + 60
            while len(statuses) < 2:
                assert time.monotonic() < deadline, "they did not end"
                time.sleep(0.05)
            yield

        class Noted(children.Child):
            def __init__(self, command, *args, **options):
                super().__init__(command, *args, **options)
                if "raise SystemExit(3)" in command:
                    threading.Thread(target=lambda: statuses.append(self.wait())).start()

        monkeypatch.setattr(runner, "_heartbeat", heartbeat)
        monkeypatch.setattr(runner, "Child", Noted)
        assert main(["recipe", str(write_recipe(tmp_path, "raise SystemExit(3)", (2,)))]) == 2
        logs = [f"01-group-0-{number}.log" for number in (1, 2)]
        said = capsys.readouterr().err
        assert [log in said for log in logs] == [True, True]

    @pytest.mark.slow
    def test_the_probe_tells_the_first_line_of_what_torch_says(self, program, monkeypatch):
        program('[ "$1" = -f ] || exit 1; touch "$CUDA_MPS_PIPE_DIRECTORY/control"; exec sleep 600')
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        with pytest.raises(ServiceError, match="cannot be used through it: .*(CUDA|NVIDIA)"):
            with started(os.environ, ["0", "1"] * 40):  # more than any machine has
                pass

    def test_a_recipe_goes_on_in_turns_and_says_why_once(
        self, program, tmp_path, monkeypatch, capsys
    ):
        program("echo 'no permission' >&2; exit 1")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
        run_recipe(tmp_path, SHOW, groups=(3, 3))
        assert printed(tmp_path) == printed(tmp_path, 1) == [["turns", "5"]] * 3
        said = capsys.readouterr().out
        assert said.count("commands take turns on a GPU: no permission") == 1

    def test_it_is_left_alone_where_not_wanted(self, stand_in, tmp_path, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
        run_recipe(tmp_path, SHOW, "--take-turns")
        assert printed(tmp_path) == [["turns", "5"]] * 3
        assert stand_in.notes == []


@pytest.mark.gpu
@pytest.mark.skipif(not shutil.which(PROGRAM), reason="no multi-process service here")
class TestTheRealOne:
    def test_commands_use_it_and_it_ends_with_them(self, tmp_path, monkeypatch, capsys):
        monkeypatch.delenv(PIPES, raising=False)
        monkeypatch.setattr(gpu_sharing, "USUAL_PIPES", tmp_path / "none")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        run_recipe(tmp_path, USE)
        assert "take turns" not in capsys.readouterr().out
        (cards, pipes, server), *others = printed(tmp_path)
        assert cards == "1" and others == [[cards, pipes, server]] * 2
        assert not Path(pipes).exists()
        with pytest.raises(ProcessLookupError):
            os.kill(int(server), 0)
