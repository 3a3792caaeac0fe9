"""Reading checkpoint files: what is refused, and errors that name the file and the reason."""

import argparse
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from cress_svcd.errors import CheckpointError, ConfigError, CressError
from cress_svcd.models import checkpoint_files
from cress_svcd.models.checkpoint_files import (
    check_before_reading,
    explained,
    explained_model,
    is_packed,
    read_mapped,
    refuse_other_model,
    run_checks,
    task_and_arch,
    with_options_of_today,
)


def saved(path, task="a_task", arch="an_arch", **more):
    cfg = {"task": {"_name": task}, "model": {"_name": arch}}
    torch.save({"cfg": cfg, "args": None, **more}, path)
    return path


@pytest.fixture
def task():
    """Of fairseq's tasks, the part that errors are explained with."""
    return argparse.Namespace(cfg=argparse.Namespace(_name="a_task"))


def raise_within(context, error):
    with context:
        raise error


class TestReading:
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
    def test_both_formats_give_their_tensors(self, tmp_path, zipped):
        state = {"model": {"w": torch.arange(5.0)}, "epoch": 3}
        torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        found = read_mapped(tmp_path / "x.pt")
        assert found["epoch"] == 3 and torch.equal(found["model"]["w"], torch.arange(5.0))

    def test_tensors_stay_on_disk(self, tmp_path):
        """Nothing of a table is read before it is used: what changes in the file shows."""
        path = tmp_path / "x.pt"
        torch.save({"w": torch.full((1000,), 7.0)}, path)
        found = read_mapped(path)
        content = path.read_bytes()
        start = content.index(torch.tensor([7.0, 7.0]).numpy().tobytes())
        with path.open("r+b") as file:
            file.seek(start)
            file.write(torch.tensor(8.0).numpy().tobytes())
        assert found["w"][:2].tolist() == [8.0, 7.0]

    @pytest.mark.parametrize(
        "value", [torch.zeros(2), [1, 2], None], ids=["Tensor", "list", "None"]
    )
    def test_what_is_no_checkpoint_is_named(self, tmp_path, value):
        torch.save(value, tmp_path / "x.pt")
        message = f"x.pt: cannot be read as a checkpoint .*it holds a {type(value).__name__}"
        for read in (
            read_mapped,
            task_and_arch,
            lambda path: refuse_other_model(path, nn.Module()),
        ):
            with pytest.raises(CheckpointError, match=message):
                read(tmp_path / "x.pt")

    def test_a_missing_file_and_a_folder_are_named(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"nowhere.pt: does not exist; expected a"):
            read_mapped(tmp_path / "nowhere.pt")
        with pytest.raises(CheckpointError, match=r"is a folder; expected a checkpoint"):
            read_mapped(tmp_path)

    def test_text_is_named(self, tmp_path):
        (tmp_path / "x.pt").write_text("no checkpoint\n")
        with pytest.raises(CheckpointError, match="x.pt: "):
            read_mapped(tmp_path / "x.pt")

    def test_code_is_refused_and_not_executed(self, tmp_path):
        class Touch:
            def __reduce__(self):
                return open, (str(tmp_path / "trace"), "w")

        torch.save({"x": Touch()}, tmp_path / "x.pt")
        with pytest.raises(
            CheckpointError, match=r"x.pt: refused: .*open.* Nothing in it was exec"
        ):
            read_mapped(tmp_path / "x.pt")
        assert not (tmp_path / "trace").exists()


class TestTaskAndArch:
    def test_of_a_configuration(self, tmp_path):
        assert task_and_arch(saved(tmp_path / "x.pt", "t", "a")) == ("t", "a")

    def test_of_the_arguments_of_old_files(self, tmp_path):
        path = saved(tmp_path / "x.pt", args=argparse.Namespace(task="old", arch="older"))
        assert task_and_arch(path) == ("old", "older")

    @pytest.mark.parametrize("state", [{}, {"cfg": None}, {"cfg": {"task": None, "model": {}}}])
    def test_where_nothing_is_said_it_is_unknown(self, tmp_path, state):
        torch.save(state, tmp_path / "x.pt")
        assert task_and_arch(tmp_path / "x.pt") == (None, None)


@pytest.mark.parametrize(
    "state, packed",
    [({"packed": {"version": 9}}, True), ({"packed": None}, True), ({"model": {}}, False)],
)
def test_a_packed_model_is_told_by_its_header(state, packed):
    assert is_packed(state) is packed and not is_packed(["packed"])


def test_checks_are_called_in_turn_with_the_path(monkeypatch):
    monkeypatch.setattr(checkpoint_files, "_checks", [])
    seen = []
    check_before_reading(lambda path: seen.append(("first", path)))
    check_before_reading(lambda path: seen.append(("second", path)))
    run_checks("x.pt")
    assert seen == [("first", "x.pt"), ("second", "x.pt")]


class TestExplaining:
    @pytest.mark.parametrize("kind", checkpoint_files.UNREADABLE)
    def test_what_readers_raise_becomes_an_error_with_its_first_line(self, kind):
        with pytest.raises(CheckpointError) as caught:
            raise_within(explained("x.pt"), kind("why\nat length"))
        message = str(caught.value)
        assert message.startswith(f"x.pt: cannot be read as a checkpoint ({kind.__name__}: why")
        assert isinstance(caught.value.__cause__, kind)

    def test_an_error_without_a_word(self):
        with pytest.raises(CheckpointError, match=r"\(EOFError: no details\)"):
            raise_within(explained("x.pt"), EOFError())

    def test_refused_content_of_a_damaged_file_stays_short(self):
        advice = f"WeightsUnpickler error: Unsupported global: GLOBAL torch.{'(' * 5000} was not"
        with pytest.raises(CheckpointError, match="x.pt: refused") as caught:
            raise_within(explained("x.pt"), pickle.UnpicklingError(advice))
        assert len(str(caught.value)) < 500

    def test_refused_content_hides_torchs_advice(self):
        advice = "use weights_only=False\nWeightsUnpickler error: GLOBAL os.system was not allowed"
        with pytest.raises(CheckpointError, match=r"x.pt: refused: .*\(os.system\)") as caught:
            raise_within(explained("x.pt"), pickle.UnpicklingError(advice))
        assert "weights_only" not in str(caught.value) and caught.value.__suppress_context__

    @pytest.mark.parametrize("error", [CheckpointError("as it is"), KeyboardInterrupt()])
    def test_others_pass(self, error):
        with pytest.raises(type(error)) as caught:
            raise_within(explained("x.pt"), error)
        assert caught.value is error


class TestExplainingModels:
    def test_an_error_of_ours_gets_the_names_once(self):
        with pytest.raises(ConfigError, match=r"^a.pt, b.pt: no such policy$"):
            raise_within(explained_model("a.pt", "b.pt"), ConfigError("no such policy"))
        error = CressError("a.pt: damaged")
        with pytest.raises(CressError) as caught:
            raise_within(explained_model("a.pt"), error)
        assert caught.value is error

    @pytest.mark.parametrize("kind", [RuntimeError, KeyError, AssertionError, ValueError])
    def test_what_a_model_raises_is_shortened(self, kind):
        with pytest.raises(CheckpointError) as caught:
            raise_within(explained_model("a.pt"), kind("size " * 500))
        message = str(caught.value)
        assert message.startswith(f"a.pt: the model in it cannot be built ({kind.__name__}: ")
        assert " …)" in message and len(message) < 700

    @pytest.mark.parametrize("kind", [AttributeError, TypeError])
    def test_a_bug_of_ours_keeps_its_traceback(self, kind, task, tmp_path):
        path = saved(tmp_path / "a.pt")
        with pytest.raises(kind, match="^x$"):
            raise_within(explained_model(path, task=task), kind("x"))

    @pytest.mark.parametrize("kind", [AttributeError, RuntimeError])
    def test_a_file_of_another_task_is_told_to_be_that(self, kind, task, tmp_path):
        paths = saved(tmp_path / "a.pt"), saved(tmp_path / "b.pt", "pretraining", "hubert")
        expected = r"^\S*b.pt: is a checkpoint of the task pretraining \(arch hubert\); .*a_task"
        with pytest.raises(CheckpointError, match=expected):
            raise_within(explained_model(*paths, task=task), kind("x"))

    def test_files_that_are_gone_are_passed_over(self, task, tmp_path):
        with pytest.raises(CheckpointError, match="gone.pt: the model in it cannot be built"):
            raise_within(explained_model(tmp_path / "gone.pt", task=task), RuntimeError("x"))


class TestAnotherModel:
    def test_the_same_tensors_are_accepted(self, tmp_path):
        model = nn.Linear(3, 2)
        path = saved(tmp_path / "x.pt", model=nn.Linear(3, 2).state_dict())
        assert refuse_other_model(path, model) is None

    def test_differences_are_named_and_counted(self, tmp_path):
        tensors = {"weight": torch.zeros(2, 4), **{f"more.{i}": torch.zeros(1) for i in range(5)}}
        path = saved(tmp_path / "x.pt", model=tensors)
        with pytest.raises(CheckpointError) as caught:
            refuse_other_model(path, nn.Linear(3, 2))
        message = str(caught.value)
        assert message.startswith(f"{path}: cannot be resumed: the checkpoint (arch an_arch)")
        assert "weight: file (2, 4), model (2, 3); bias: file has none, model (2,)" in message
        assert "more.0: file (1,), model has none" in message and " and 3 more. " in message

    def test_a_file_without_a_model_differs_in_every_tensor(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"weight: file has none.*bias: file has none"):
            refuse_other_model(saved(tmp_path / "x.pt"), nn.Linear(3, 2))


def test_a_switch_that_became_a_choice_is_read():
    """The examples are of the time when --graph-training was one."""
    from fairseq import checkpoint_utils

    packed = Path(__file__).parents[2] / "scripts" / "examples" / "en-de.pt"
    for wish, expected in ((False, "off"), (True, "on")):
        state = {"cfg": {"task": {"graph_training": wish}}}
        assert with_options_of_today(state) == {"cfg": {"task": {"graph_training": expected}}}
    assert with_options_of_today({"cfg": None}) == {"cfg": None}
    state = checkpoint_utils.load_checkpoint_to_cpu(str(packed))
    assert state["cfg"]["task"]["graph_training"] == "off"
