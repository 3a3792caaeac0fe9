"""The learnt segmenter: labels, windows, a checkpoint that carries it through average and pack."""

import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml

from cress_svcd.cli.main import main
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.translation.segmentation import Segmentation, cut, make_segmenter
from cress_svcd.translation.segmentation.learnt import Head, finer, read_head
from cress_svcd.translation.segmentation.learnt_training import (
    labels_of,
    matches,
    put_into_checkpoint,
    read_segmentation,
    vary,
    weights_of,
)
from cress_svcd.translation.segmentation.windows import at_model_rate, overlapping
from cress_svcd.translation.translator import Translator, load_model
from tests.helpers.translation_model import make_checkpoint

RATE = 16_000


def test_labels_are_the_segments_and_a_gap_between_those_that_touch():
    labels = labels_of([(0.1, 0.3), (0.5, 1.0), (1.0, 1.4)], 0.0, 80, 0.02)
    expected = np.zeros(80)
    expected[5:15], expected[25:70], expected[[49, 50]] = 1, 1, 0
    assert np.abs(labels - expected).sum() <= 1
    assert labels[[49, 50]].sum() == 0
    later = labels_of([(0.1, 0.3), (0.5, 1.0), (1.0, 1.4)], 0.4, 60, 0.02)
    assert np.abs(later - labels[20:]).sum() <= 2  # the middle of a frame may lie on an edge
    assert weights_of(labels)[5] > 1 == weights_of(labels)[35]


def test_edges_are_matched_once_within_the_tolerance():
    assert matches([(0.0, 1.0), (2.0, 3.0)], [(0.05, 1.2), (2.05, 3.05)]) == (3, 4, 4)
    assert matches([], [(0.0, 1.0)]) == (0, 0, 2)


def test_variation_is_seeded_and_clears_labels_of_windows_without_speech():
    wave = np.sin(np.arange(16_000) / 10).astype(np.float32)
    for seed in range(40):
        labels = np.ones(50, np.float32)
        first = vary(wave, labels, np.random.default_rng(seed))
        again = vary(wave, np.ones(50, np.float32), np.random.default_rng(seed))
        assert np.array_equal(first, again) and first.dtype == np.float32
        assert labels.all() or not labels.any()


@pytest.mark.parametrize("length", [0, 5, 10, 11, 37, 100])
def test_windows_cover_everything_once_but_for_their_overlap(length):
    wave = np.arange(length, dtype=np.float32)
    for blocks in ([wave], np.array_split(wave, 9)):
        found = list(overlapping(blocks, 10, 4))
        joined = [part[before:] for part, before, _ in found]
        assert np.array_equal(np.concatenate([*joined, np.zeros(0)]), wave)
        assert [last for _, _, last in found] == [False] * (len(found) - 1) + [True] * bool(found)
        assert all(len(part) <= 10 for part, _, _ in found)


def test_blocks_of_another_rate_are_resampled_as_one_stream():
    wave = np.sin(np.arange(8_000) / 9).astype(np.float32)
    whole, parts = (
        np.concatenate(list(at_model_rate(blocks, 8_000)))
        for blocks in ([wave], np.array_split(wave, 13))
    )
    assert len(whole) == 16_000 and np.allclose(whole, parts, atol=1e-5)


def test_between_frames_the_probability_is_linear():
    assert finer(np.array([0.0, 1.0])).tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]


@pytest.fixture(scope="module")
def checkpoint(prepared, hubert, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.pt", prepared, hubert)


class TestCheckpoint:
    @pytest.fixture(scope="class")
    def trained(self, checkpoint, prepared):
        path = checkpoint.parent / "trained.pt"
        flags = ["--updates", "3", "--device", "cpu", "-o", str(path)]
        assert main(["train-segmenter", str(checkpoint), str(prepared), *flags]) == 0
        return path

    def test_the_same_seed_gives_the_same_from_data_and_from_the_release(
        self, checkpoint, trained, release, tmp_path
    ):
        path = tmp_path / "again.pt"
        flags = ["--updates", "3", "--device", "cpu", "-o", str(path), "--tgt-lang", "de"]
        assert main(["train-segmenter", str(checkpoint), str(release), *flags]) == 0
        first, again = (
            torch.load(name, weights_only=True)["segmenter"] for name in (trained, path)
        )
        assert first["numbers"] == again["numbers"]
        for name, tensor in first["tensors"].items():
            assert torch.allclose(tensor, again["tensors"][name], atol=1e-6), name

    def test_average_and_pack_keep_it(self, trained, prepared, tmp_path):
        expected = torch.load(trained, weights_only=True)["segmenter"]
        averaged, packed = tmp_path / "averaged.pt", tmp_path / "packed.pt"
        assert main(["average", str(trained), str(trained), "-o", str(averaged)]) == 0
        flags = ["--allow-full", "--data", str(prepared)]
        assert main(["pack", str(averaged), "-o", str(packed), *flags]) == 0
        for path in (averaged, packed):
            found = torch.load(path, weights_only=True)["segmenter"]
            assert found["numbers"] == expected["numbers"]
        again = tmp_path / "again.pt"
        put_into_checkpoint(packed, again, expected)
        assert again.read_bytes() == packed.read_bytes()
        assert load_model(again, None)[0].segmenter["version"] == 1

    def test_it_is_the_default_where_it_is_there(self, checkpoint, trained, prepared):
        for path, name in ((checkpoint, "EnergySegmenter"), (trained, "LearntSegmenter")):
            translator = Translator.load(path, data=prepared, device="cpu")
            assert type(translator.segmentation).__name__ == name
        with pytest.raises(ConfigError, match="train-segmenter"):
            make_segmenter(Segmentation(segmenter="learnt"), load_model(checkpoint, prepared)[0])

    def test_every_frame_of_a_long_recording_is_heard_once_at_any_rate(self, trained, prepared):
        model, _ = load_model(trained, prepared)
        segmenter = make_segmenter(Segmentation(), model.eval())
        generator = np.random.default_rng(1)
        wave = (0.1 * generator.standard_normal(50 * RATE)).astype(np.float32)
        heard = segmenter.listen(np.array_split(wave, 11), RATE)
        assert heard.samples == len(wave) and heard.hop == 80
        assert len(heard.probabilities) == 50 * 200
        assert np.all((heard.probabilities >= 0) & (heard.probabilities <= 1))
        slow = segmenter.listen([wave[::2]], 8_000)
        assert slow.hop == 40 and abs(len(slow.probabilities) - 50 * 200) <= 4
        assert cut([wave[:0]], RATE, segmenter) == []
        silent = segmenter.listen([np.zeros(30 * RATE, np.float32)], RATE)
        assert len(silent.probabilities) == 30 * 200 and not silent.probabilities.any()

    def test_a_damaged_or_foreign_one_is_refused(self, trained):
        state = torch.load(trained, weights_only=True)["segmenter"]
        assert isinstance(read_head(state, 32)[0], Head)
        for damaged, dim in (({}, 32), ({**state, "tensors": {}}, 32), (state, 64)):
            with pytest.raises(CheckpointError, match="train it again"):
                read_head(damaged, dim)


class TestSegmentation:
    @pytest.fixture
    def folder(self, prepared, tmp_path):
        """A prepared folder whose audio_root is relative."""
        folder = shutil.copytree(prepared, tmp_path / "data")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "release").symlink_to(config["audio_root"])
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, "audio_root": "release"}))
        return folder

    def test_a_relative_audio_root_starts_at_the_config(
        self, folder, prepared, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        found, expected = (read_segmentation(data, "train") for data in (folder, prepared))
        assert found == expected and all(map(os.path.isfile, found))

    @pytest.mark.parametrize("marked", [True, False])
    def test_shards_have_no_pauses_to_learn_from(self, folder, checkpoint, capsys, marked):
        out = folder / "shards"
        assert main(["shard-audio", str(folder), "-o", str(out)]) == 0
        if not marked:
            config = yaml.safe_load((out / "config.yaml").read_text())
            del config["sharded"]
            (out / "config.yaml").write_text(yaml.safe_dump(config))
        model = folder / "model.pt"
        assert main(["train-segmenter", str(checkpoint), str(out), "-o", str(model)]) == 2
        error = capsys.readouterr().err
        assert f"{out / 'train.tsv'}: its audio was packed by shard-audio" in error
        assert "give the folder that it was made of" in error and not model.exists()


def test_segments_that_are_files_of_their_own_teach_nothing(prepared, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    (tmp_path / "config.yaml").write_text((prepared / "config.yaml").read_text())
    header = (prepared / "train.tsv").read_text().splitlines()[:2]
    fields = dict(zip(header[0].split("\t"), header[1].split("\t")))
    fields["audio"] = str(tmp_path / "a.wav")
    line = "\t".join(fields[name] for name in header[0].split("\t"))
    (tmp_path / "train.tsv").write_text(f"{header[0]}\n{line}\n")
    for name in ("spm_unigram50.model", "spm_unigram50.txt"):
        (tmp_path / name).write_bytes((prepared / name).read_bytes())
    with pytest.raises(ConfigError, match="a file of its own"):
        read_segmentation(tmp_path, "train")
