"""Resumable work: done once, again when anything changed, taken up after a kill, stamps of old."""

import json
import logging
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from cress_svcd.data.corpus.mustc import Release
from cress_svcd.data.corpus.parallel_text import ParallelText
from cress_svcd.data.corpus.preparation import Summary
from cress_svcd.data.synthesis.speech import SpeechOptions
from cress_svcd.data.synthesis.spoken_corpus import SplitFolder
from cress_svcd.pretraining.stages import StageRecords
from cress_svcd.recipes.recipe_file import Stage, load_recipe
from cress_svcd.recipes.resumable import Record, Step, digest
from cress_svcd.recipes.runner import StageStamps
from cress_svcd.shipped import shipped_files


def summary(folder: Path, language: str = "de", force: bool = False) -> Summary:
    return Summary(folder / "summary.json", Release(folder / "en-de" / "data", language), force)


KINDS = {
    "a recipe's stamps": lambda folder: StageStamps(folder / ".stages"),
    "HuBERT's stages": lambda folder: StageRecords(folder / "summary.json"),
    "a preparation": summary,
}


class Kitchen:
    """One step's work in a folder; every call opens the records again, as another process does."""

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind, self.done = folder, kind, []
        self.output = folder / "soup"

    @property
    def records(self):
        return KINDS[self.kind](self.folder)

    def step(self, inputs="leek") -> Step:
        return Step("cook", inputs, [self.output])

    def run(self, inputs="leek", work=None):
        def cook():
            self.done.append(inputs)
            self.output.write_text(f"soup of {inputs}")
            return {"plates": len(inputs)}

        return self.records.run(self.step(inputs), work or cook)

    def killed(self, inputs="leek") -> None:
        """Run in a process that is killed in the middle of the work."""

        def die():
            self.output.write_text("so")
            os.kill(os.getpid(), signal.SIGKILL)

        child = multiprocessing.get_context("fork").Process(target=self.run, args=(inputs, die))
        child.start()
        child.join(timeout=60)
        assert child.exitcode == -signal.SIGKILL


@pytest.fixture(params=KINDS)
def kitchen(request, tmp_path) -> Kitchen:
    return Kitchen(tmp_path, request.param)


class TestOnce:
    def test_a_finished_step_is_not_done_again(self, kitchen, caplog):
        caplog.set_level(logging.INFO)
        assert not kitchen.records.is_done(kitchen.step())
        assert kitchen.run() == {"plates": 4} and "up to date" not in caplog.text
        assert kitchen.records.is_done(kitchen.step())
        assert not kitchen.records.is_begun(kitchen.step())
        again = kitchen.run()
        assert kitchen.done == ["leek"] and "cook: up to date (--force does" in caplog.text
        assert again == (None if kitchen.kind == "a recipe's stamps" else {"plates": 4})

    def test_other_inputs_do_it_again_and_so_do_the_first_after_them(self, kitchen):
        for inputs in ("leek", "peas", "peas", "leek"):
            kitchen.run(inputs)
        assert kitchen.done == ["leek", "peas", "leek"]

    def test_a_result_that_is_gone_is_made_again(self, kitchen):
        kitchen.run()
        kitchen.output.unlink()
        assert not kitchen.records.is_done(kitchen.step())
        kitchen.run()
        assert kitchen.done == ["leek", "leek"] and kitchen.output.read_text() == "soup of leek"

    def test_a_preparation_alone_looks_at_sizes(self, kitchen):
        kitchen.run()
        kitchen.output.write_text("soup of leek and a fly")
        assert kitchen.records.is_done(kitchen.step()) == (kitchen.kind != "a preparation")

    def test_steps_do_not_know_each_other(self, kitchen):
        kitchen.run()
        other = Step("bake", "leek", [kitchen.output])
        assert not kitchen.records.is_done(other)
        kitchen.records.run(other, lambda: {"cakes": 1})
        assert kitchen.records.is_done(other) and kitchen.records.is_done(kitchen.step())

    def test_a_step_without_outputs_needs_none(self, kitchen):
        step = Step("taste", "leek")
        kitchen.records.run(step, dict)
        assert kitchen.records.is_done(step)


class TestStopped:
    def test_a_killed_step_is_not_finished_and_runs_again(self, kitchen):
        kitchen.killed()
        assert kitchen.output.exists() and not kitchen.records.is_done(kitchen.step())
        kitchen.run()
        assert kitchen.done == ["leek"] and kitchen.output.read_text() == "soup of leek"
        assert kitchen.records.is_done(kitchen.step())

    def test_a_recipe_knows_what_was_begun_with_the_same_inputs(self, kitchen):
        kitchen.killed()
        begun = kitchen.kind == "a recipe's stamps"
        assert kitchen.records.is_begun(kitchen.step()) == begun
        assert not kitchen.records.is_begun(kitchen.step("peas"))

    def test_killed_with_other_inputs_it_is_not_done_with_the_old_ones(self, kitchen):
        kitchen.run("leek")
        kitchen.killed("peas")
        for inputs in ("leek", "peas"):
            assert not kitchen.records.is_done(kitchen.step(inputs))
        kitchen.run("leek")
        assert kitchen.done == ["leek", "leek"] and kitchen.output.read_text() == "soup of leek"

    def test_a_failed_step_is_not_finished(self, kitchen):
        kitchen.run("leek")
        with pytest.raises(ZeroDivisionError):
            kitchen.run("peas", lambda: 1 // 0)
        assert not kitchen.records.is_done(kitchen.step("peas"))
        assert not kitchen.records.is_done(kitchen.step("leek"))

    def test_begun_and_finished_are_two_things(self, kitchen):
        records = kitchen.records
        records.begin(kitchen.step())
        read = records.read("cook")
        assert read is None or read == Record("leek", finished=False)
        assert not records.is_done(kitchen.step())


class TestStampsOfRecipes:
    @pytest.fixture
    def read(self, tmp_path):
        def read(text):
            (tmp_path / "a.json").write_text(text)
            return StageStamps(tmp_path).read("a")

        return read

    def test_of_a_finished_stage(self, read, tmp_path):
        assert read('{"digest": "d1", "seconds": 12.5}') == Record("d1")
        assert StageStamps(tmp_path).seconds("a") == 12.5
        assert StageStamps(tmp_path).is_done(Step("a", "d1"))

    def test_of_one_that_was_begun(self, read, tmp_path):
        assert read('{"digest": "d1"}') == Record("d1", finished=False)
        assert StageStamps(tmp_path).seconds("a") == 0
        assert StageStamps(tmp_path).is_begun(Step("a", "d1"))

    @pytest.mark.parametrize("text", ["", "{", "{}", "[]", "3", "null", '{"seconds": 1}'])
    def test_of_no_use(self, read, tmp_path, text):
        assert read(text) is None and not StageStamps(tmp_path).is_done(Step("a", "d1"))

    def test_a_damaged_one_has_no_seconds(self, read, tmp_path):
        read("[]")
        assert StageStamps(tmp_path).seconds("a") == StageStamps(tmp_path).seconds("nowhere") == 0

    def test_one_that_is_forgotten(self, read, tmp_path):
        read('{"digest": "d1", "seconds": 12.5}')
        for _ in range(2):
            StageStamps(tmp_path).forget("a")
            assert StageStamps(tmp_path).read("a") is None

    def test_of_a_stage_that_had_other_commands_for_the_same(self, tmp_path):
        stage = Stage("a", "", [["new"]], formerly=[["old"]])
        (tmp_path / "a.json").write_text(f'{{"digest": "{stage.former_digest()}", "seconds": 1}}')
        assert StageStamps(tmp_path, [stage]).is_done(Step("a", stage.digest()))
        assert not StageStamps(tmp_path).is_done(Step("a", stage.digest()))

    def test_the_demo_text_of_the_generator_is_done(self):
        """The digest is what the version with the generator wrote for this folder."""
        recipe = load_recipe(shipped_files("recipes")["demo"], {"out": "/demo/en-de"})
        assert recipe.stages[0].former_digest() == "0c09dfe3da28ae47"

    def test_it_holds_the_seconds_of_the_work(self, tmp_path):
        StageStamps(tmp_path).write("a", Record("d1", seconds=2.25))
        assert json.loads((tmp_path / "a.json").read_text()) == {"digest": "d1", "seconds": 2.25}


class TestRecordsOfHubert:
    def test_of_a_finished_stage(self, tmp_path):
        entry = {"inputs": "d1", "seconds": 3.1, "result": {"parameters": 5}}
        (tmp_path / "summary.json").write_text(json.dumps({"export": entry}))
        records = StageRecords(tmp_path / "summary.json")
        assert records.read("export") == Record("d1", result={"parameters": 5})
        assert records.digest("export") == "d1" and records.read("units") is None

    @pytest.mark.parametrize("text", ["{", "[]", '{"export": 3}', "null"])
    def test_of_no_use(self, tmp_path, caplog, text):
        (tmp_path / "summary.json").write_text(text)
        records = StageRecords(tmp_path / "summary.json")
        assert records.entries == {} and "everything is done again" in caplog.text

    def test_a_begun_stage_is_forgotten_and_the_others_stay(self, tmp_path):
        entries = {name: {"inputs": name, "seconds": 1.0, "result": {}} for name in ("a", "b")}
        path = tmp_path / "summary.json"
        path.write_text(json.dumps(entries))
        StageRecords(path).begin(Step("a", "other"))
        assert json.loads(path.read_text()) == {"b": entries["b"]}


class TestSummaryOfAPreparation:
    OLD = {
        "version": 1,
        "release": "/gone",
        "src_lang": "en",
        "tgt_lang": "de",
        "splits": {"train": {"segments": 2}},
        "stamps": {"splits/train": {"inputs": "d1", "outputs": {"train.tsv": 3}}},
    }

    def write(self, folder, **changes):
        (folder / "summary.json").write_text(json.dumps({**self.OLD, **changes}))

    def test_of_a_finished_stage(self, tmp_path):
        self.write(tmp_path)
        expected = Record("d1", result={"segments": 2}, outputs={"train.tsv": 3})
        assert summary(tmp_path).read("splits/train") == expected
        step = Step("splits/train", "d1", [tmp_path / "train.tsv"])
        assert not summary(tmp_path).is_done(step)
        (tmp_path / "train.tsv").write_text("abc")
        assert summary(tmp_path).is_done(step)

    @pytest.mark.parametrize("changes", [{"version": 0}, {"tgt_lang": "ro"}, {"stamps": 3}])
    def test_of_no_use(self, tmp_path, caplog, changes):
        self.write(tmp_path, **changes)
        assert summary(tmp_path).read("splits/train") is None
        assert "everything is prepared again" in caplog.text

    def test_a_damaged_stamp_counts_as_none(self, tmp_path):
        self.write(tmp_path, stamps={"splits/train": {}})
        assert summary(tmp_path).read("splits/train") is None

    def test_force_does_not_look_at_it(self, tmp_path):
        self.write(tmp_path)
        assert summary(tmp_path, force=True).read("splits/train") is None

    def test_a_folder_that_was_moved_keeps_what_is_done(self, tmp_path):
        for name in ("before", "after"):
            (tmp_path / name).mkdir()
        first = Kitchen(tmp_path / "before", "a preparation")
        first.run()
        for path in list(first.folder.iterdir()):
            path.rename(tmp_path / "after" / path.name)
        moved = Kitchen(tmp_path / "after", "a preparation")
        assert moved.records.is_done(moved.step())


class TestFoldersOfSpeech:
    SETTINGS = {"text": "t1", "rate": [140, 190]}

    @pytest.fixture
    def folder(self, tmp_path):
        options = SpeechOptions("en", "de", ("en-us",), ("en-gb",))
        return SplitFolder(tmp_path, ParallelText("dev", (), 0), options)

    def test_what_is_there_tells_how_far_it_came(self, folder):
        step = Step("dev", self.SETTINGS)
        assert folder.read("dev") is None and not folder.is_begun(step)
        folder.begin(step)
        assert folder.read("dev") == Record(self.SETTINGS, finished=False)
        assert folder.is_begun(step) and not folder.is_done(step)
        assert not folder.is_begun(Step("dev", {"text": "t2"}))

    def test_of_a_finished_split(self, folder):
        folder.done_file.parent.mkdir(parents=True)
        content = {"settings": self.SETTINGS, "summary": {"split": "dev"}, "speakers": {}}
        folder.done_file.write_text(json.dumps(content))
        assert folder.read("dev") == Record(self.SETTINGS, result={"split": "dev"})
        assert folder.is_done(Step("dev", self.SETTINGS))
        assert folder.run(Step("dev", self.SETTINGS), lambda: 1 // 0) == {"split": "dev"}
        folder.clear()
        assert folder.read("dev") is None


class TestDigests:
    def test_they_are_those_of_old_stamps(self):
        """Written by earlier versions: another digest would do everything again."""
        assert digest([1, {"b": 1, "a": [1.5, None, "ü"]}]) == "d4e378cff7005b90"
        long = "527b8ed62e76469e6417d020b96dafcfddfb01e67888b52115b700cccd800f9e"
        assert digest([1, "units"], characters=64) == long

    def test_order_of_keys_does_not_matter_and_that_of_items_does(self):
        assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        assert digest([1, 2]) != digest([2, 1]) and digest(1) != digest("1")

    def test_what_json_does_not_know_counts_as_its_text(self):
        assert digest([Path("a/b")]) == digest(["a/b"]) != digest([Path("a/c")])

    @pytest.mark.parametrize("characters", [4, 16, 64])
    def test_their_length(self, characters):
        found = digest("x", characters)
        assert len(found) == characters and digest("x", 64).startswith(found)
