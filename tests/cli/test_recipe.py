"""Recipes: stages that run once, resume, and fail with the reason."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cress_svcd.cli.main import main
from cress_svcd.errors import ConfigError
from cress_svcd.recipes.recipe_file import load_recipe
from cress_svcd.recipes.runner import child_environment, resolve, visible_gpus
from tests.helpers.dry_run import printed_commands

# Appends its arguments as a line to a file.
NOTE = "import sys; open(sys.argv[1], 'a').write(' '.join(sys.argv[2:]) + '\\n')"

DIGITS = ["eins", "zwei", "drei", "vier"]


def note(*words) -> list[str]:
    return ["{python}", "-c", NOTE, "{out}/notes", *words]


class Kitchen:
    """Writes a recipe and runs it."""

    def __init__(self, folder: Path):
        self.path, self.out = folder / "recipe.yaml", folder / "out"
        self.out.mkdir()

    def write(self, *stages, report=(), **settings) -> None:
        content = {
            "name": "test",
            "about": "a test",
            "settings": {"out": str(self.out), "python": sys.executable, **settings},
            "stages": list(stages),
            "report": list(report),
        }
        self.path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def run(self, *flags) -> int:
        return main(["recipe", str(self.path), *flags])

    def start(self, *flags) -> subprocess.Popen:
        command = resolve(["cress-svcd", "recipe", str(self.path), *flags])
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Tests that run in the background inherit an ignored Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    @property
    def notes(self) -> list[str]:
        path = self.out / "notes"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def kitchen(tmp_path) -> Kitchen:
    return Kitchen(tmp_path)


def stage(name, *commands, **keys) -> dict:
    return {"name": name, "does": f"do {name}", "commands": list(commands), **keys}


def wait_for(condition, seconds=60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


class TestResuming:
    three = [stage("a", note("a")), stage("b", note("b", "{word}")), stage("c", note("c"))]

    def test_a_second_run_does_nothing(self, kitchen, capsys):
        kitchen.write(*self.three, word="x")
        assert kitchen.run() == 0 and kitchen.notes == ["a", "b x", "c"]
        assert kitchen.run() == 0 and kitchen.notes == ["a", "b x", "c"]
        assert capsys.readouterr().out.count("done before") == 3

    def test_a_changed_command_runs_again_with_all_that_follows(self, kitchen):
        kitchen.write(*self.three, word="x")
        kitchen.run()
        assert kitchen.run("--set", "word=y") == 0
        assert kitchen.notes == ["a", "b x", "c", "b y", "c"]

    def test_what_follows_a_change_runs_again_also_after_an_interruption(self, kitchen):
        kitchen.write(*self.three, word="x")
        kitchen.run()
        kitchen.run("--set", "word=y", "--to-stage", "b")
        kitchen.run("--set", "word=y")
        assert kitchen.notes == ["a", "b x", "c", "b y", "c"]

    def test_a_stage_whose_result_is_gone_runs_again(self, kitchen):
        kitchen.write(stage("a", note("a"), makes=["{out}/notes"]))
        kitchen.run()
        (kitchen.out / "notes").unlink()
        kitchen.run()
        assert kitchen.notes == ["a"]

    def test_a_failed_stage_runs_again(self, kitchen, capsys):
        fails_once = (
            "import pathlib, sys; file = pathlib.Path(sys.argv[1]); tried = file.exists();"
            "file.touch(); sys.exit(not tried)"
        )
        kitchen.write(
            stage("a", note("a")), stage("b", ["{python}", "-c", fails_once, "{out}/tried"])
        )
        assert kitchen.run() == 2 and "stage b" in capsys.readouterr().err
        assert kitchen.run() == 0 and kitchen.notes == ["a"]

    def test_some_stages_only(self, kitchen):
        kitchen.write(*self.three, word="x")
        kitchen.run("--from-stage", "2", "--to-stage", "b")
        assert kitchen.notes == ["b x"]

    def test_force(self, kitchen):
        kitchen.write(*self.three, word="x")
        kitchen.run()
        kitchen.run("--force", "--from-stage", "c")
        assert kitchen.notes == ["a", "b x", "c", "c"]


@pytest.mark.slow
class TestStopping:
    # Makes work/, notes its process, and waits the first time.
    slow = (
        "import os, pathlib, sys, time; folder = pathlib.Path(sys.argv[1]);"
        "first = not folder.exists();"
        "folder.mkdir(exist_ok=True); part = folder / 'pid.part';"
        "part.write_text(str(os.getpid())); part.rename(folder / 'pid'); time.sleep(600 * first)"
    )

    def write(self, kitchen):
        kitchen.write(
            stage("a", note("a")),
            stage("b", ["{python}", "-c", self.slow, "{out}/work"], clears=["{out}/work"]),
            stage("c", note("c")),
        )

    def stop(self, kitchen, how) -> tuple[int, str]:
        """Stop the recipe in stage b; returns the process of its command, and what was said."""
        pid_file = kitchen.out / "work" / "pid"
        process = kitchen.start()
        wait_for(pid_file.exists)
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
        return int(pid_file.read_text()), said

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_its_commands_stop_with_it_and_it_resumes(self, kitchen, how):
        self.write(kitchen)
        command, said = self.stop(kitchen, how)
        assert not alive(command) and "Traceback" not in said
        assert kitchen.run() == 0
        assert kitchen.notes == ["a", "c"]

    def test_killed_outright_it_resumes_and_never_twice_at_a_time(self, kitchen, capsys):
        self.write(kitchen)
        command, _ = self.stop(kitchen, signal.SIGKILL)
        while kitchen.run() == 2:
            assert "at work there" in capsys.readouterr().err
        assert not alive(command)
        assert kitchen.notes == ["a", "c"]

    def test_what_commands_have_started_ends_before_another_run_begins(self, kitchen):
        """Also what has a session of its own and closes all files, as torchrun's ranks."""
        starts = (
            "import subprocess, sys;"
            "subprocess.run([sys.executable, '-c', *sys.argv[1:]], start_new_session=True)"
        )
        kitchen.write(stage("a", ["{python}", "-c", starts, self.slow, "{out}/work"]))
        command, _ = self.stop(kitchen, signal.SIGKILL)
        while kitchen.run() == 2:
            pass
        assert not alive(command)

    def test_it_takes_up_its_work_only_with_the_same_commands(self, kitchen):
        self.write(kitchen)
        self.stop(kitchen, signal.SIGTERM)
        (kitchen.out / "work" / "checkpoint").write_text("")
        kitchen.run()
        assert (kitchen.out / "work" / "checkpoint").exists()
        kitchen.write(stage("b", note("b"), clears=["{out}/work"]))
        kitchen.run()
        assert not (kitchen.out / "work").exists()


class TestFailing:
    def test_the_message_holds_the_end_of_the_log(self, kitchen, capsys):
        loud = "import sys\nfor i in range(100): print('line', i)\nsys.exit('the reason')"
        kitchen.write(stage("bad", ["{python}", "-c", loud]))
        assert kitchen.run() == 2
        message = capsys.readouterr().err
        assert "stage bad" in message and "status 1" in message and "01-bad.log" in message
        assert "the reason" in message and "line 99" in message and "line 5\n" not in message

    def test_something_needed_is_missing(self, kitchen, capsys):
        kitchen.write(stage("a", note("a"), needs=["{out}/nowhere"]))
        assert kitchen.run() == 2
        assert "nowhere: no such file; run the stages before it" in capsys.readouterr().err
        assert not kitchen.notes

    def test_a_file_that_no_stage_makes_is_missed_before_anything_is_run(
        self, kitchen, capsys, tmp_path
    ):
        kitchen.write(
            stage("a", note("a")),
            stage("b", note("b"), needs=["{download}", "{out}"]),
            download=str(tmp_path / "download"),
        )
        assert kitchen.run() == 2 and not kitchen.notes
        assert "download (stage b): no such file; check the settings" in capsys.readouterr().err
        assert kitchen.run("--to-stage", "a") == 0
        (tmp_path / "download").touch()
        assert kitchen.run() == 0 and kitchen.notes == ["a", "b"]
        # Once done it is not needed any more.
        (tmp_path / "download").unlink()
        assert kitchen.run() == 0

    @pytest.mark.parametrize(
        "words, remedy",
        [
            (
                ["score", "--recordings"],
                "a needs mweralign, suber: pip install 'cress_svcd[score]'",
            ),
            (["translate", "--segmenter", "silero"], "a needs silero_vad: pip install 'cress_svcd"),
            (
                ["translate", "--segmenter=silero"],
                "a needs silero_vad: pip install 'cress_svcd[vad",
            ),
            (["chart", "x", "--png", "y"], "a needs matplotlib: pip install matplotlib"),
        ],
    )
    def test_a_package_that_is_missing_is_told_before_anything_is_run(
        self, kitchen, capsys, monkeypatch, words, remedy
    ):
        for module in ("mweralign", "suber", "silero_vad", "matplotlib"):
            monkeypatch.setitem(sys.modules, module, None)
        kitchen.write(stage("first", note("first")), stage("a", ["cress-svcd", *words]))
        assert kitchen.run() == 2 and not kitchen.notes
        (line,) = capsys.readouterr().err.splitlines()
        assert remedy in line
        assert kitchen.run("--to-stage", "first") == 0 and kitchen.notes == ["first"]

    def test_packages_that_no_command_needs_may_be_missing(self, kitchen, monkeypatch):
        for module in ("mweralign", "silero_vad", "matplotlib"):
            monkeypatch.setitem(sys.modules, module, None)
        words = ["score", "--segmenter", "energy", "--recordings"]
        kitchen.write(stage("a", note(*words)))  # another program with these words
        assert kitchen.run() == 0 and kitchen.notes == [" ".join(words)]

    def test_something_is_not_made(self, kitchen, capsys):
        kitchen.write(stage("a", note("a"), makes=["{out}/nowhere"]))
        for _ in range(2):
            assert kitchen.run() == 2
            assert "it ended without" in capsys.readouterr().err
        assert kitchen.notes == ["a", "a"]

    def test_commands_one_after_the_other_stop_at_the_first_failure(self, kitchen):
        kitchen.write(stage("a", note("1"), ["{python}", "-c", "raise SystemExit(3)"], note("2")))
        assert kitchen.run() == 2 and kitchen.notes == ["1"]

    def test_a_program_that_is_not_there(self, kitchen, capsys):
        kitchen.write(stage("a", ["no-such-program", "x"]))
        assert kitchen.run() == 2
        assert "no-such-program" in capsys.readouterr().err

    @pytest.mark.parametrize("together", [False, True])
    @pytest.mark.parametrize("printed, accepted", [("diverged: 7", True), ("no such file", False)])
    def test_a_failure_may_be_what_a_stage_is_for(
        self, kitchen, capsys, printed, accepted, together
    ):
        fail = ["{python}", "-c", "import sys; print(sys.argv[1]); sys.exit(1)", printed]
        kitchen.write(
            stage(
                "one",
                fail,
                note("other"),
                accepts="diverged",
                together=together,
                output="{out}/printed",
            ),
            stage("two", note("two")),
        )
        assert kitchen.run() == (0 if accepted else 2)
        if accepted:
            assert sorted(kitchen.notes) == ["other", "two"]
            assert printed in (kitchen.out / "printed").read_text()
        else:
            assert "stage one:" in capsys.readouterr().err and "two" not in kitchen.notes
        assert kitchen.run() == (0 if accepted else 2)
        assert kitchen.notes.count("two") == accepted


class TestTogether:
    # Waits for the other's file: they can only succeed side by side.
    meet = (
        "import pathlib, sys, time; mine, other = map(pathlib.Path, sys.argv[1:]); mine.touch();"
        "[time.sleep(0.01) for _ in range(3000) if not other.exists()]; assert other.exists()"
    )

    def test_side_by_side(self, kitchen):
        commands = [
            ["{python}", "-c", self.meet, f"{{out}}/{mine}", f"{{out}}/{other}"]
            for mine, other in ("ab", "ba")
        ]
        kitchen.write(stage("both", *commands, together=True, output="{out}/all.txt"))
        assert kitchen.run() == 0
        logs = [kitchen.out / "logs" / f"01-both-{i}.log" for i in (1, 2)]
        assert (kitchen.out / "all.txt").read_text() == "".join(log.read_text() for log in logs)

    def test_the_output_of_each_is_kept(self, kitchen):
        commands = [["{python}", "-c", f"print('said {word}')"] for word in "ab"]
        kitchen.write(stage("both", *commands, together=True, output=["{out}/a", "{out}/b"]))
        assert kitchen.run() == 0
        for word in "ab":
            assert (kitchen.out / word).read_text().splitlines()[1:] == [f"said {word}"]

    def test_they_share_the_cores(self, kitchen, monkeypatch):
        show = ["{python}", "-c", "import os; print('threads', os.environ.get('OMP_NUM_THREADS'))"]
        cores = len(os.sched_getaffinity(0))
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        kitchen.write(stage("both", show, show, together=True, output="{out}/all.txt"))
        assert kitchen.run() == 0
        assert (kitchen.out / "all.txt").read_text().count(f"threads {max(1, cores // 2)}\n") == 2

    @pytest.mark.parametrize(
        "given, dealt",
        [("4,6", ["4", "6", "4"]), ("5", ["5"] * 3), ("", [""] * 3)],
        ids=["two", "one", "none"],
    )
    def test_the_gpus_are_dealt_out(self, kitchen, monkeypatch, given, dealt):
        show = ["{python}", "-c", "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        kitchen.write(stage("three", show, show, show, together=True, output="{out}/all.txt"))
        assert kitchen.run() == 0
        printed = (kitchen.out / "all.txt").read_text().splitlines()
        cards = [line for line in printed if not line.startswith("$")]
        assert cards == [repr(card) for card in dealt]

    def test_gpus_are_found_by_the_driver(self, tmp_path, monkeypatch):
        driver = tmp_path / "nvidia-smi"
        driver.write_text("#!/bin/sh\necho 0; echo 1\n")
        driver.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert visible_gpus({}) == ["0", "1"]
        driver.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
        assert visible_gpus({}) == []

    def test_one_failure_stops_the_others(self, kitchen, capsys):
        sleep = (
            "import os, pathlib, sys, time; part = pathlib.Path(sys.argv[1] + '.part');"
            "part.write_text(str(os.getpid())); part.rename(sys.argv[1]); time.sleep(600)"
        )
        fail = (
            "import os, sys, time\n"
            "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
            "sys.exit(5)"
        )
        kitchen.write(
            stage(
                "both",
                ["{python}", "-c", sleep, "{out}/pid"],
                ["{python}", "-c", fail, "{out}/pid"],
                together=True,
            )
        )
        assert kitchen.run() == 2 and "status 5" in capsys.readouterr().err
        assert not alive(int((kitchen.out / "pid").read_text()))


class TestReading:
    def load(self, kitchen, changes=None):
        return load_recipe(kitchen.path, changes)

    def test_settings_use_earlier_ones(self, kitchen):
        kitchen.write(stage("a", ["x", "{deep}", "{{kept}}"]), lang="de", deep="{lang}/{out}")
        (only,) = self.load(kitchen, {"lang": "ro"}).stages
        assert only.commands == [["x", f"ro/{kitchen.out}", "{kept}"]]

    def test_lists_are_spliced(self, kitchen):
        kitchen.write(
            stage("a", ["x", "{flags}", "--seed={seed}", "{none}", "y"]),
            seed=3,
            flags=["--a={seed}", "--b"],
            none=[],
        )
        assert self.load(kitchen).stages[0].commands == [["x", "--a=3", "--b", "--seed=3", "y"]]
        changed = self.load(kitchen, {"flags": "[--c]", "seed": "4"})
        assert changed.stages[0].commands == [["x", "--c", "--seed=4", "y"]]

    @pytest.mark.parametrize(
        "value, there", [("0.5", True), ("0", False), ("0.0", False), ("", False), ("no", False)]
    )
    def test_words_that_are_there_with_a_setting(self, kitchen, value, there):
        words = {"when": "{share}", "words": ["--share={share}"]}
        two = {"unless": "{share}", "words": ["--none", "{out}"]}
        kitchen.write(stage("a", ["x", words, "{flags}", two]), share="0.1", flags=[words, "-y"])
        (found,) = self.load(kitchen, {"share": value}).stages[0].commands
        share = [f"--share={value}"] if there else []
        none = [] if there else ["--none", str(kitchen.out)]
        assert found == ["x", *share, *share, "-y", *none]

    @pytest.mark.parametrize(
        "item", [{"words": ["x"]}, {"when": "x"}, {"words": "x", "when": "x"}, {"a": 1}, {}]
    )
    def test_words_that_are_none(self, kitchen, item):
        for flags, command in (([item], ["x", "{flags}"]), ([], ["x", item])):
            kitchen.write(stage("a", command), flags=flags)
            with pytest.raises(ConfigError, match="recipe.yaml: .*expected a word, or words with"):
                self.load(kitchen)

    def test_a_changed_text_stays_text(self, kitchen):
        kitchen.write(stage("a", ["x", "{lang}", "{rate}"]), lang="de", rate="1e-3")
        changed = self.load(kitchen, {"lang": "no", "rate": "1e-4"})
        assert changed.stages[0].commands == [["x", "no", "1e-4"]]

    @pytest.mark.parametrize(
        "value, there", [(True, 2), (False, 1), ("", 1), (0, 1), ([], 1), ("x", 2)]
    )
    def test_stages_that_are_left_out(self, kitchen, value, there):
        kitchen.write(stage("a", ["x"]), stage("b", ["y"], when="{flag}"), flag=value)
        assert len(self.load(kitchen).stages) == there

    @pytest.mark.parametrize(
        "content, message",
        [
            ("", "holds nothing.*scripts/recipes"),
            ("- a", "holds a list"),
            ("stages: [", ":1: is not valid YAML"),
            ("name: x\nabout: y\nname: z", ":3: .*'name' stands twice.* line 1"),
            (
                "stages:\n  - name: a\n    commands: [[x]]\n    commands: [[y]]",
                ":4: .*'commands' stands twice.* line 3",
            ),
            ("name: x", "no key stages"),
            ("stages: [x]\nsettings: {out: o}", "stages: expected a list of keys"),
            ("settings: [out]\nstages: [{name: a, commands: [[x]]}]", "settings: expected keys"),
            ("stages: [{name: a, commands: [[x]]}]", "no key out"),
            ("settings: {out: o}\nstages: [{name: a}]", "needs name and commands"),
            ("settings: {out: o}\nstages: [{name: a, commands: [[x]], runs: 1}]", "'runs'"),
            ("settings: {out: o}\nstages: [{name: a, commands: [x y]}]", "argument lists"),
            ("settings: {out: o}\nstages: [{name: a, commands: x}]", "argument lists"),
            ("settings: {out: o}\nstages: [{name: a, commands: [['{b}']]}]", "no setting 'b'.*out"),
            ("settings: {out: o}\nstages: [{name: a, commands: [['{out.b}']]}]", "{out.b}"),
            ("settings: {out: o}\nstages: [{name: a, commands: [['{']]}]", "'{'"),
            ("settings: {out: []}\nstages: [{name: a, commands: [[x]]}]", "out: expected the fol"),
            ("settings: {out: }\nstages: [{name: a, commands: [[x]]}]", "out: expected the fol"),
            ("settings: {out: o}\nstages: [{name: [], commands: [[x]]}]", "expected a name"),
            ("settings: {out: o}\nstages: [{name: a/b, commands: [[x]]}]", "expected a name"),
            ("settings: {out: o}\nstages: [{name: '..', commands: [[x]]}]", "expected a name"),
            (
                "settings: {out: o}\nstages: [{name: a, commands: 0}]",
                "commands: expected a list of",
            ),
            (
                "settings: {out: o}\nstages: [{name: a, commands: [[x]], formerly: [x]}]",
                "formerly: expected a list of argument lists",
            ),
            *(
                (
                    f"settings: {{out: o}}\nstages: [{{name: a, commands: [[x]], {key}: abc}}]",
                    f"stage a: {key}: expected a list of files",
                )
                for key in ("needs", "makes", "clears")
            ),
            (
                "settings: {out: o}\nstages: [{name: a, commands: [[x]]}, {name: a, commands: []}]",
                "two stages have one name",
            ),
            (
                "settings: {out: o}\nstages: [{name: a, commands: [[x]]}]\nreport: [{scores: x}]",
                "report.*name",
            ),
        ],
    )
    def test_what_is_no_recipe_says_why(self, kitchen, content, message):
        kitchen.path.write_text(content)
        with pytest.raises(ConfigError, match=f"(?s)recipe.yaml.*{message}"):
            self.load(kitchen)

    def test_a_file_that_is_not_there(self, kitchen):
        with pytest.raises(ConfigError, match="recipe.yaml: cannot be read"):
            self.load(kitchen)

    @pytest.mark.parametrize(
        "flags, message",
        [
            (["--set", "lnag=de"], "no setting lnag; it has"),
            (["--set", "lang"], "expected KEY=VALUE"),
            (["--set", "=x"], "expected KEY=VALUE"),
            (["--set", "flags=[a"], "setting flags: '\\[a':1: is not valid YAML"),
            (["--set", "flags={a: 1, a: 2}"], "setting flags: .*'a' stands twice"),
            (["--from-stage", "7"], "no stage 7; there are 1 to 1: a"),
            (["--to-stage", "b"], "no stage b"),
        ],
    )
    def test_wrong_options_say_what_there_is(self, kitchen, capsys, flags, message):
        kitchen.write(stage("a", note("a")), lang="de", flags=[])
        assert kitchen.run(*flags) == 2 and not kitchen.notes
        assert re.search(message, capsys.readouterr().err)


class TestPrinting:
    def test_a_dry_run_prints_what_is_run(self, kitchen, capsys):
        kitchen.write(stage("a", note("two words", "{word}")), stage("b", note("b")), word="größe")
        assert kitchen.run("--dry-run") == 0 and not kitchen.notes
        printed = capsys.readouterr().out
        kitchen.run()
        logs = sorted((kitchen.out / "logs").iterdir())
        assert [log.name for log in logs] == ["01-a.log", "02-b.log"]
        assert printed_commands(printed) == [
            shlex.split(log.read_text(encoding="utf-8").splitlines()[0].removeprefix("$ "))
            for log in logs
        ]
        before = kitchen.notes
        subprocess.run(["bash", "-c", printed], check=True)
        assert kitchen.notes == before * 2 == ["two words größe", "b"] * 2

    def test_a_list(self, kitchen, capsys):
        kitchen.write(stage("first", note("a")), word="x")
        assert kitchen.run("--list") == 0 and not kitchen.notes
        printed = capsys.readouterr().out
        assert "word = x" in printed and "1 first: do first" in printed

    def test_the_output_of_a_stage_is_kept(self, kitchen):
        kitchen.write(
            stage(
                "a",
                ["{python}", "-c", "print('said')"],
                output="{out}/results/a.txt",
                makes=["{out}/results/a.txt"],
            )
        )
        assert kitchen.run() == 0
        assert "said" in (kitchen.out / "results" / "a.txt").read_text().splitlines()

    def test_the_report(self, kitchen, capsys):
        (kitchen.out / "model.pt").write_bytes(bytes(2_500_000))
        scores = {"bleu": 93.1, "chrf": 95.5, "seconds": 7.25}
        (kitchen.out / "scores.json").write_text(json.dumps(scores))
        systems = [{"name": "a", "bleu": 1}, {"name": "b", "bleu": 46.55}]
        sentence = {"id": "1", "reference": "ja", "hypotheses": {"a": "nein", "b": "ja"}}
        comparison = {"systems": systems, "translations": [sentence]}
        (kitchen.out / "comparison.json").write_text(json.dumps(comparison))
        kitchen.write(
            stage("a", note("a")),
            report=[
                {"name": "speech", "checkpoint": "{out}/model.pt", "scores": "{out}/scores.json"},
                {"name": "compared", "scores": "{out}/comparison.json", "system": "b"},
                {"name": "not yet", "scores": "{out}/nowhere.json"},
            ],
        )
        assert kitchen.run() == 0
        report = json.loads((kitchen.out / "report.json").read_text())
        assert report["results"] == [
            {
                "name": "speech",
                "checkpoint": str(kitchen.out / "model.pt"),
                "megabytes": 2.5,
                **scores,
            },
            {
                "name": "compared",
                "bleu": 46.55,
                "translations": [{"id": "1", "reference": "ja", "hypothesis": "ja"}],
            },
            {"name": "not yet"},
        ]
        assert report["seconds"].keys() == {"a"} and report["settings"]["out"] == str(kitchen.out)
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["share", "BLEU", "chrF", "MB", "seconds"] in rows
        assert ["speech", "100.0%", "93.1", "95.5", "2.5", "7.25"] in rows
        assert ["compared", "50.0%", "46.55"] in rows

    def reported(self, kitchen, capsys, *systems: list[str], references=DIGITS) -> list[list[str]]:
        """What is printed of a recipe that compares outputs a, b, …, by line and word."""
        names = "abc"[: len(systems)]
        for name, hypotheses in zip(names, systems):
            lines = [
                f"T-{number}\t{reference}\nD-{number}\t-1\t{hypothesis}\n"
                for number, (reference, hypothesis) in enumerate(zip(references, hypotheses))
            ]
            (kitchen.out / f"{name}.txt").write_text("".join(lines))
        outputs = [f"{{out}}/{name}.txt" for name in names]
        flags = ["--resamples", "20", "--json", "{out}/scores.json"]
        kitchen.write(
            stage("compare", ["cress-svcd", "compare", *outputs, *flags]),
            report=[
                {"name": f"row-{name}", "scores": "{out}/scores.json", "system": name}
                for name in names
            ],
        )
        assert kitchen.run() == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    def test_of_single_words_shares_are_of_exact_match(self, kitchen, capsys):
        """The second output says more than it should, and has the only BLEU above 0."""
        rows = self.reported(kitchen, capsys, DIGITS, ["zwei drei vier eins", *DIGITS[1:]])
        head = rows.index(["share", "exact", "%", "BLEU", "chrF", "MB", "seconds"])
        assert rows[head + 1] == ["row-a", "100.0%", "100", "0", "100"]
        assert rows[head + 2][:3] == ["row-b", "75.0%", "75"] and float(rows[head + 2][3]) > 0
        assert " ".join(rows[head + 3]) == (
            "BLEU means nothing where no reference has four tokens; share is of exact match"
        )
        results = json.loads((kitchen.out / "report.json").read_text())["results"]
        assert [row["exact_match"] for row in results] == [100, 75]

    def test_of_single_words_shares_may_be_of_chrf(self, kitchen, capsys):
        near = [f"{word}s" for word in DIGITS]
        rows = self.reported(kitchen, capsys, near, DIGITS)
        head = rows.index(["share", "exact", "%", "BLEU", "chrF", "MB", "seconds"])
        first, second, why = rows[head + 1 : head + 4]
        assert first[1:3] == ["100.0%", "0"] and second[2] == "100"
        assert float(second[1][:-1]) == pytest.approx(100 * 100 / float(first[-1]), abs=0.06)
        assert " ".join(why).endswith("share is of chrF, as the first of them has no exact match")

    def test_one_reference_of_four_tokens_leaves_the_table_as_it_was(self, kitchen, capsys):
        references = ["eins", "zwei drei vier fünf"]
        rows = self.reported(kitchen, capsys, references, ["eins", "zwei"], references=references)
        head = rows.index(["share", "BLEU", "chrF", "MB", "seconds"])
        assert rows[head + 1] == ["row-a", "100.0%", "100", "100"] and rows[head + 3] == []

    def test_rows_of_several_test_sets(self, kitchen, capsys):
        """Each takes its share of the first that is measured as it is."""
        scores = {
            "long": {"bleu": 40, "chrf": 50, "exact_match": 10, "reference_4grams": 9},
            "worse": {"bleu": 30, "chrf": 40, "exact_match": 1, "reference_4grams": 9},
            "short": {"bleu": 0, "chrf": 90, "exact_match": 80, "reference_4grams": 0},
            "shorter": {"bleu": 0.5, "chrf": 45, "exact_match": 60, "reference_4grams": 0},
        }
        systems = [{"name": name, **each} for name, each in scores.items()]
        (kitchen.out / "scores.json").write_text(json.dumps({"systems": systems}))
        order = ["short", "long", "shorter", "worse"]
        kitchen.write(
            stage("a", note("a")),
            report=[
                {"name": name, "scores": "{out}/scores.json", "system": name} for name in order
            ],
        )
        assert kitchen.run() == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        shares = {row[0]: row[1] for row in rows if row and row[0] in order}
        assert shares == {"short": "100.0%", "long": "100.0%", "shorter": "75.0%", "worse": "75.0%"}

    def test_without_scores_there_is_no_table_of_them(self, kitchen, capsys):
        kitchen.write(stage("a", note("a")))
        assert kitchen.run() == 0
        said = capsys.readouterr().out
        assert "BLEU" not in said and "all stages" in said


def test_what_commands_inherit(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    environment = child_environment({"MORE": "1"})
    assert environment["OMP_WAIT_POLICY"] == "ACTIVE", "the user's own choice"
    assert environment["THP_MEM_ALLOC_ENABLE"] == environment["MORE"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
