"""Averaging checkpoints: exact means, the right files, clear errors, nothing half-written."""

import pytest
import torch
from fairseq import checkpoint_utils

from cress_svcd.cli.main import main
from cress_svcd.models import averaging


def weights(number: int) -> dict[str, torch.Tensor]:
    """Tensors whose mean in single precision would be off, an integer and a half-precision one."""
    generator = torch.Generator().manual_seed(number)
    return {
        "a.weight": torch.randn(7, 5, generator=generator) * 10.0 ** (number % 4),
        "b.half": torch.randn(9, generator=generator).half(),
        "c.count": torch.tensor([number]),
    }


def write(path, number, metric=None, maximize=False, **changes):
    state = {
        "args": None,
        "cfg": {
            "checkpoint": {"maximize_best_checkpoint_metric": maximize},
            "model": {"_name": "x"},
        },
        "model": weights(number),
        "optimizer_history": [
            {"num_updates": number, "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}}
        ],
        "extra_state": {"train_iterator": {"epoch": number}},
        "last_optimizer_state": {"state": torch.zeros(100)},
        "task_state": {"dictionary_digest": "abc"},
    }
    if metric is not None:
        state["extra_state"]["val_loss"] = metric
    torch.save({**state, **changes}, path)


@pytest.fixture
def folder(tmp_path):
    """Epochs 1 to 12, updates 100 to 500, and the two files that are copies."""
    folder = tmp_path / "run"
    folder.mkdir()
    # By metric, the best are 3, 5, 1 where less is better.
    metrics = {1: 4.0, 2: 9.0, 3: 2.0, 4: 8.0, 5: 3.0}
    for epoch in range(1, 13):
        write(folder / f"checkpoint{epoch}.pt", epoch, metrics.get(epoch, 10.0))
    for update in range(1, 6):
        write(folder / f"checkpoint_1_{update * 100}.pt", 100 + update, 1.0)
    write(folder / "checkpoint_best.pt", 77)
    write(folder / "checkpoint_last.pt", 78)
    return folder


def run(*arguments) -> int:
    return main(["average", *map(str, arguments)])


def mean(*numbers: int) -> dict[str, torch.Tensor]:
    parts = [weights(number) for number in numbers]
    return {
        name: torch.stack([part[name].double() for part in parts]).mean(0).to(parts[0][name].dtype)
        for name in ("a.weight", "b.half")
    }


def model_of(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def assert_is_mean(path, *numbers: int) -> None:
    model = model_of(path)
    for name, value in mean(*numbers).items():
        assert model[name].dtype == value.dtype
        assert torch.equal(model[name], value), name


class TestChoice:
    @pytest.mark.parametrize(
        "flags, numbers",
        [
            (["--last", "1"], [12]),
            (["--last", "3"], [10, 11, 12]),
            ([], list(range(1, 13))),
            (["--by", "update", "--last", "2"], [104, 105]),
            (["--by", "update"], [101, 102, 103, 104, 105]),
            (["--best", "1"], [3]),
            (["--best", "3"], [3, 5, 1]),
        ],
    )
    def test_from_a_folder(self, folder, tmp_path, flags, numbers):
        assert run(folder, *flags, "-o", tmp_path / "out.pt") == 0
        assert_is_mean(tmp_path / "out.pt", *numbers)

    def test_best_where_more_is_better(self, tmp_path):
        for epoch, bleu in enumerate((10.0, 30.0, 20.0, 5.0), start=1):
            write(tmp_path / f"checkpoint{epoch}.pt", epoch, bleu, maximize=True)
        assert run(tmp_path, "--best", "2", "-o", tmp_path / "out.pt") == 0
        assert_is_mean(tmp_path / "out.pt", 2, 3)

    def test_of_files(self, folder, tmp_path, capsys):
        files = [folder / "checkpoint_best.pt", folder / "checkpoint2.pt"]
        assert run(*files, "-o", tmp_path / "new" / "out.pt") == 0
        assert_is_mean(tmp_path / "new" / "out.pt", 77, 2)
        assert "average of checkpoint_best.pt, checkpoint2.pt" in capsys.readouterr().out


class TestResult:
    def test_integers_and_options_come_from_the_last_and_no_optimizer(self, folder, tmp_path):
        run(folder, "--last", "2", "-o", tmp_path / "out.pt")
        state = torch.load(tmp_path / "out.pt", weights_only=True)
        assert state["model"]["c.count"].item() == 12
        assert state["extra_state"]["train_iterator"]["epoch"] == 12
        assert state["task_state"] == {"dictionary_digest": "abc"}
        assert "last_optimizer_state" not in state

    def test_of_many_is_exact(self, tmp_path):
        """A hundred times the same weights average to these, which single precision misses."""
        for epoch in range(1, 101):
            write(tmp_path / f"checkpoint{epoch}.pt", 3)
        run(tmp_path, "-o", tmp_path / "out.pt")
        assert torch.equal(model_of(tmp_path / "out.pt")["a.weight"], weights(3)["a.weight"])

    def test_is_one_for_fairseqs_reader(self, folder, tmp_path):
        run(folder, "--last", "2", "-o", tmp_path / "out.pt")
        state = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "out.pt"))
        assert state["cfg"]["model"]["_name"] == "x"

    def test_tied_tables_stay_tied(self, tmp_path):
        files = []
        for number in (1, 2):
            table = torch.randn(50, 8)
            names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
            files.append(tmp_path / f"{number}.pt")
            # The second as an earlier version averaged it.
            tables = {name: table if number == 1 else table.clone() for name in names}
            write(files[-1], number, model=tables)
        assert run(*files, "-o", tmp_path / "out.pt") == 0
        one, other = model_of(tmp_path / "out.pt").values()
        assert one.data_ptr() == other.data_ptr()

    def test_does_not_replace_one_of_its_inputs(self, folder):
        before = (folder / "checkpoint12.pt").read_bytes()
        assert main(["average", str(folder), "--last", "2", "-o", f"{folder}/checkpoint12.pt"]) == 2
        assert (folder / "checkpoint12.pt").read_bytes() == before


class TestErrors:
    def check(self, capsys, message, *arguments):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize("flag", ["--last", "--best"])
    def test_fewer_than_asked_for(self, folder, tmp_path, capsys, flag):
        self.check(
            capsys,
            f"{flag} 20 asked for, but there are 12",
            folder,
            flag,
            "20",
            "-o",
            tmp_path / "out.pt",
        )
        assert not (tmp_path / "out.pt").exists()

    def test_none_of_that_kind(self, tmp_path, capsys):
        write(tmp_path / "checkpoint_best.pt", 1)
        output = ["-o", tmp_path / "out.pt"]
        for flags in ([], ["--last", "1"]):
            self.check(capsys, "named like checkpoint7.pt (", tmp_path, *flags, *output)
        flags = ["--by", "update"]
        self.check(
            capsys,
            "named like checkpoint_7_7.pt (found: checkpoint_best.pt)",
            tmp_path,
            *flags,
            *output,
        )

    def test_of_another_model(self, folder, tmp_path, capsys):
        for model in ({**weights(2), "more": torch.zeros(1)}, {"a.weight": torch.zeros(7, 5)}):
            write(folder / "checkpoint13.pt", 13, model=model)
            self.check(
                capsys,
                "checkpoint13.pt: another model",
                folder,
                "--last",
                "3",
                "-o",
                tmp_path / "out.pt",
            )
        assert not (tmp_path / "out.pt").exists()

    def test_of_another_shape(self, folder, tmp_path, capsys):
        write(folder / "checkpoint12.pt", 12, model={**weights(2), "a.weight": torch.zeros(5, 7)})
        self.check(capsys, "a.weight differ", folder, "--last", "3", "-o", tmp_path / "out.pt")

    def test_truncated(self, folder, tmp_path, capsys):
        path = folder / "checkpoint11.pt"
        path.write_bytes(path.read_bytes()[:-200])
        self.check(capsys, "checkpoint11.pt", folder, "--last", "3", "-o", tmp_path / "out.pt")
        assert not (tmp_path / "out.pt").exists()

    def test_a_bad_file_is_told_before_any_is_added_up(self, folder, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(averaging, "read_checkpoint", lambda path: 1 / 0)
        (folder / "checkpoint12.pt").write_bytes(b"no checkpoint")
        assert run(folder, "--last", 3, "-o", tmp_path / "out.pt") == 2
        assert "checkpoint12.pt: " in capsys.readouterr().err

    def test_without_a_metric(self, folder, tmp_path, capsys):
        write(folder / "checkpoint7.pt", 7)
        self.check(
            capsys,
            "checkpoint7.pt: no validation metric",
            folder,
            "--best",
            "2",
            "-o",
            tmp_path / "out.pt",
        )

    def test_something_else(self, tmp_path, capsys):
        torch.save({"weights": weights(1)}, tmp_path / "checkpoint1.pt")
        self.check(capsys, "no 'model' in it", tmp_path, "-o", tmp_path / "out.pt")

    def test_files_with_a_choice(self, folder, tmp_path, capsys):
        self.check(
            capsys,
            "choose from one folder",
            folder / "checkpoint1.pt",
            "--last",
            "1",
            "-o",
            tmp_path / "out.pt",
        )

    def test_nothing_there(self, tmp_path, capsys):
        self.check(
            capsys,
            "nowhere: no such file or folder",
            tmp_path / "nowhere",
            "--last",
            "1",
            "-o",
            tmp_path / "out.pt",
        )

    def test_not_a_number(self, folder, tmp_path):
        with pytest.raises(SystemExit):
            run(folder, "--last", "0", "-o", tmp_path / "out.pt")


def test_a_full_disk_leaves_the_old_file(folder, tmp_path, capsys, full_disk):
    output = tmp_path / "out.pt"
    output.write_bytes(b"old")
    with full_disk(1_000):
        code = run(folder, "--last", "2", "-o", output)
    assert code == 2 and "out.pt" in capsys.readouterr().err
    assert output.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pt", "run"]
