"""Programs that share a GPU: at the same time where the service can be had, else in turns."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from cress_svcd.cli.main import main
from cress_svcd.recipes import gpu_sharing
from cress_svcd.recipes.gpu_sharing import ServiceError, is_at_hand, started, variables

SHOW = (
    "import os; e = os.environ;print(e.get('CUDA_MPS_PIPE_DIRECTORY'), e['CUDA_VISIBLE_DEVICES'])"
)
USE = (
    "import os, subprocess, time, torch;"
    "torch.zeros(1, device='cuda'); time.sleep(5);"
    "servers = subprocess.run(['nvidia-cuda-mps-control'], input='get_server_list\\n',"
    " capture_output=True, text=True).stdout.split();"
    "print('cards', torch.cuda.device_count(), 'servers', len(servers))"
)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program of the service's name on the PATH, where nobody else's service is in use."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv(gpu_sharing.PIPES, raising=False)
    monkeypatch.setattr(gpu_sharing, "USUAL_PIPES", tmp_path / "none")

    def write(text: str) -> Path:
        file = folder / gpu_sharing.PROGRAM
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return file

    return write


def run_recipe(folder: Path, code: str, *flags: str, commands: int = 3) -> list[str]:
    """What each of several commands prints that run side by side."""
    command = ["{python}", "-c", code]
    content = {
        "name": "test",
        "about": "a test",
        "settings": {"out": str(folder / "out"), "python": sys.executable},
        "stages": [
            {
                "name": "all",
                "does": "show",
                "together": True,
                "commands": [command] * commands,
                "output": "{out}/all.txt",
            }
        ],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main(["recipe", str(path), *flags]) == 0
    printed = (folder / "out" / "all.txt").read_text().splitlines()
    return [line for line in printed if not line.startswith("$")]


class TestWhatProgramsAreTold:
    def test_without_service_cards_keep_their_names(self):
        told = variables(["4", "6"], {})
        assert told == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "6"}]

    def test_the_service_numbers_its_cards_anew(self):
        told = variables(["4", "6"], {gpu_sharing.PIPES: "/p"})
        assert [each["CUDA_VISIBLE_DEVICES"] for each in told] == ["0", "1"]
        assert [each[gpu_sharing.PIPES] for each in told] == ["/p", "/p"]


class TestWhetherThereIsOneToStart:
    def test_where_it_is_installed(self, program):
        program("exit 0")
        assert is_at_hand(os.environ, ["0"])
        assert not is_at_hand(os.environ, [])

    def test_where_it_is_not(self, program, tmp_path):
        assert not is_at_hand({"PATH": str(tmp_path)}, ["0"])

    def test_not_where_one_is_in_use(self, program, tmp_path, monkeypatch):
        program("exit 0")
        assert not is_at_hand({**os.environ, gpu_sharing.PIPES: "/somewhere"}, ["0"])
        (tmp_path / "control").touch()
        monkeypatch.setattr(gpu_sharing, "USUAL_PIPES", tmp_path)
        assert not is_at_hand(os.environ, ["0"])

    def test_not_for_parts_of_a_card(self, program):
        program("exit 0")
        assert not is_at_hand(os.environ, ["MIG-1"])


class TestOneThatCannotServe:
    """The programs here are as broken as the real one can be."""

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

    def test_no_gpu_can_be_used_through_it_and_nothing_is_left(
        self, program, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(gpu_sharing, "START_SECONDS", 5)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        # Answers at once, and serves as long as it is not stopped.
        program(
            f'[ "$1" = -f ] || exit 0; echo $$ > {tmp_path}/process;'
            'touch "$CUDA_MPS_PIPE_DIRECTORY/control"; exec sleep 600'
        )
        with pytest.raises(ServiceError, match="cannot be used|do not use"):
            with started(os.environ, ["0"]):
                pass
        process = int((tmp_path / "process").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
        assert list((tmp_path / "temporary").iterdir()) == []

    def test_a_recipe_goes_on_in_turns_and_says_why(self, program, tmp_path, monkeypatch, capsys):
        program("echo 'no permission' >&2; exit 1")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
        assert run_recipe(tmp_path, SHOW) == ["None 5"] * 3
        assert "commands take turns on a GPU: no permission" in capsys.readouterr().out

    def test_it_is_left_alone_where_not_asked_for_or_needed(
        self, program, tmp_path, monkeypatch, capsys
    ):
        program(f"touch {tmp_path}/called; exit 1")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
        assert run_recipe(tmp_path, SHOW, "--take-turns") == ["None 5"] * 3
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
        assert run_recipe(tmp_path, SHOW, "--force") == ["None 5", "None 6", "None 7"]
        assert not (tmp_path / "called").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not shutil.which(gpu_sharing.PROGRAM), reason="no multi-process service here")
class TestTheRealOne:
    def test_commands_use_it_and_it_ends_with_the_run(self, tmp_path, monkeypatch, capsys):
        monkeypatch.delenv(gpu_sharing.PIPES, raising=False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert run_recipe(tmp_path, USE) == ["cards 1 servers 1"] * 3
        assert "take turns" not in capsys.readouterr().out
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert not [command for command in commands if gpu_sharing.PROGRAM.encode() in command]
