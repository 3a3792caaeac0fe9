import pytest
import torch
from fairseq import tasks
from omegaconf import OmegaConf

from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.pretraining.task import SegmentHubertPretrainingConfig
from tests.helpers.tone_corpus import write_prepared

SAMPLES = [8_000, 16_000, 24_000]


@pytest.fixture
def folder(tmp_path):
    prepared = write_prepared(tmp_path / "data")
    rows = "".join(f"wav/train.wav:0:{samples}\t{samples}\n" for samples in SAMPLES)
    (tmp_path / "train.tsv").write_text(f"{prepared}\n{rows}")
    labels = ["0 1 " * ((samples - 400) // 640) for samples in SAMPLES]
    (tmp_path / "train.km").write_text("\n".join(labels) + "\n")
    (tmp_path / "train.ltr").write_text("a b\nc\na | d\n")
    (tmp_path / "dict.km.txt").write_text("0 1\n1 1\n")
    (tmp_path / "dict.ltr.txt").write_text("a 1\nb 1\nc 1\nd 1\n| 1\n")
    return tmp_path


def set_up(folder, **options):
    config = SegmentHubertPretrainingConfig(
        data=str(folder), labels=["km"], label_rate=50.0, pad_audio=True, random_crop=False
    )
    config = OmegaConf.merge(
        OmegaConf.structured(config), {"_name": "segment_hubert_pretraining", **options}
    )
    return tasks.setup_task(config)


def test_frame_labels_alone(folder):
    task = set_up(folder, max_sample_size=16_000)
    task.load_dataset("train")
    dataset = task.dataset("train")
    assert len(dataset) == 3  # longer ones are cropped
    batch = dataset.collater([dataset[index] for index in range(3)])
    assert len(batch["target_list"]) == 1 and batch["net_input"]["source"].shape == (3, 16_000)
    assert len(task.dictionaries) == 1


def test_with_transcripts_nothing_is_cropped(folder):
    task = set_up(folder, max_sample_size=16_000, min_sample_size=9_000, transcripts="ltr")
    task.load_dataset("train")
    dataset = task.dataset("train")
    assert len(dataset) == 1
    units, letters = dataset.collater([dataset[0]])["target_list"]
    assert task.dictionaries[1].string(letters[0]) == "c"
    assert [len(dictionary) for dictionary in task.dictionaries] == [6, 9]


def test_shapes_are_for_training_and_for_padded_batches(folder):
    task = set_up(folder, batch_shapes=2, train_subset="train", max_sample_size=16_000)
    task.load_dataset("train")
    assert task.dataset("train").shapes.lengths.tolist() == [8_000, 16_000]
    (folder / "dev.tsv").write_text((folder / "train.tsv").read_text())
    (folder / "dev.km").write_text((folder / "train.km").read_text())
    task.load_dataset("dev")
    assert task.dataset("dev").shapes is None
    task = set_up(folder, batch_shapes=2, train_subset="train", pad_audio=False)
    with pytest.raises(ConfigError, match="batch_shapes 2: expected 0 without task.pad_audio"):
        task.load_dataset("train")


def test_a_missing_dictionary_is_named(folder):
    (folder / "dict.ltr.txt").unlink()
    with pytest.raises(ConfigError, match="dict.ltr.txt: no such file"):
        set_up(folder, transcripts="ltr").load_dataset("train")


class TestOrder:
    """Whatever reads them, from wherever a training goes on: the same batches of the same
    samples."""

    @pytest.fixture
    def corpus(self, tmp_path):
        prepared = write_prepared(tmp_path / "data", train=30)
        frame = read_manifest(prepared / "train.tsv")
        rows = "".join(f"{a}\t{n}\n" for a, n in zip(frame["audio"], frame["n_frames"]))
        (tmp_path / "train.tsv").write_text(f"{prepared}\n{rows}")
        labels = ("0 1 " * ((samples - 400) // 640) for samples in frame["n_frames"])
        (tmp_path / "train.km").write_text("\n".join(labels) + "\n")
        (tmp_path / "train.ltr").write_text("a b\n" * len(frame))
        (tmp_path / "dict.km.txt").write_text("0 1\n1 1\n")
        (tmp_path / "dict.ltr.txt").write_text("a 1\nb 1\n")
        return tmp_path

    def heard(self, folder, share, epochs, workers=0, stopped=None) -> list:
        options = {"transcripts": "ltr", "vary_cuts": share, "max_sample_size": 40_000}
        task = set_up(folder, **options, train_subset="train", seed=1)
        task.load_dataset("train")
        for epoch in epochs:
            iterator = task.get_batch_iterator(
                task.dataset("train"), 80_000, epoch=epoch, num_workers=workers
            )
            if stopped is not None:
                iterator.load_state_dict(stopped)
            found = [
                (batch["id"].tolist(), batch["net_input"]["source"], batch["target_list"][0])
                for batch in iterator.next_epoch_itr()
            ]
            assert iterator.epoch == epoch
        return found

    @pytest.mark.parametrize("share", [0.0, 0.8])
    def test_of_a_later_epoch_is_that_of_a_resumed_training(self, corpus, share):
        def same(one, other) -> bool:
            return [ids for ids, *_ in one] == [ids for ids, *_ in other] and all(
                torch.equal(wave, theirs) and torch.equal(labels, others)
                for (_, wave, labels), (_, theirs, others) in zip(one, other, strict=True)
            )

        whole = self.heard(corpus, share, [1, 2, 3])
        assert len(whole) > 4
        assert same(whole, self.heard(corpus, share, [3]))
        assert same(whole, self.heard(corpus, share, [1, 2, 3], workers=2))
        assert not same(whole, self.heard(corpus, share, [1, 2]))
        within = {"epoch": 3, "iterations_in_epoch": 2, "shuffle": True, "len": len(whole)}
        for workers in (0, 2):
            rest = self.heard(corpus, share, [3], workers, {"version": 2, **within})
            assert same(whole[2:], rest)
