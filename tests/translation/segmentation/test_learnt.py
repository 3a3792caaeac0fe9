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
from cress_svcd.models.hubert_checkpoint import frame_stride
from cress_svcd.translation.recordings import read_segments
from cress_svcd.translation.segmentation import Segmentation, cut, make_segmenter
from cress_svcd.translation.segmentation.learnt import Head, finer, read_head
from cress_svcd.translation.segmentation.learnt_training import (
    BATCH,
    KEPT,
    Examples,
    NothingToLearn,
    Options,
    matches,
    put_into_checkpoint,
    read_segmentation,
)
from cress_svcd.translation.segmentation.learnt_windows import (
    labels_of,
    music,
    put_between,
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


def test_what_is_put_between_segments_moves_the_rest():
    labels = np.zeros(50, np.float32)
    labels[10:20], labels[30:40] = 1, 1
    wave = np.repeat(labels * np.arange(1, 51), 320).astype(np.float32)
    for seed in range(40):
        moved, others = put_between(wave, labels, 320, np.random.default_rng(seed))
        assert len(moved) == len(wave) and len(others) == 50 and moved.dtype == np.float32
        found = np.flatnonzero(others)
        # The wave stands where its labels say.
        expected = (labels * np.arange(1, 51))[labels == 1][: len(found)]
        assert np.array_equal(moved[found * 320], expected)
    full = np.ones(50, np.float32)
    assert put_between(wave, full, 320, np.random.default_rng(1))[0] is wave


def test_music_is_loud_all_along():
    for seed in range(10):
        sound = music(3 * RATE, np.random.default_rng(seed))
        assert sound.dtype == np.float32 and abs(sound.std() - 1) < 0.01


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
        flags = ["--updates", "3", "--windows", "12", "--device", "cpu", "-o", str(path)]
        assert main(["train-segmenter", str(checkpoint), str(prepared), *flags]) == 0
        return path

    def test_the_same_seed_gives_the_same_from_data_and_from_the_release(
        self, checkpoint, trained, release, tmp_path
    ):
        path = tmp_path / "again.pt"
        flags = [
            "--updates",
            "3",
            "--windows",
            "12",
            "--device",
            "cpu",
            "-o",
            str(path),
            "--tgt-lang",
            "de",
        ]
        assert main(["train-segmenter", str(checkpoint), str(release), *flags]) == 0
        first, again = (
            torch.load(name, weights_only=True)["segmenter"] for name in (trained, path)
        )
        assert first["numbers"] == again["numbers"]
        for name, tensor in first["tensors"].items():
            assert torch.allclose(tensor, again["tensors"][name], atol=1e-3), name

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

    def test_where_it_hears_nothing_loudness_cuts(self, trained, prepared, tmp_path, caplog):
        translator = Translator.load(trained, data=prepared, device="cpu")
        with torch.no_grad():
            translator.segmentation.head.output.bias.fill_(-100)
        time = np.arange(8 * RATE) / RATE
        wave = (0.3 * np.sin(2 * np.pi * 440 * time) * (time % 2 > 1)).astype(np.float32)
        soundfile.write(tmp_path / "buzz.wav", wave, RATE)
        for audio in (wave, tmp_path / "buzz.wav"):
            caplog.clear()
            spans = list(read_segments(audio, segmentation=translator.segmentation))
            assert [round(span.start) for span in spans] == [1, 3, 5, 7]
            assert caplog.text.count("hears no speech in it; cut by its loudness instead") == 1
            name = "the recording" if audio is wave else str(audio)
            assert f"{name}: " in caplog.text
        caplog.clear()
        assert not list(read_segments(0 * wave, segmentation=translator.segmentation))
        insisting = make_segmenter(Segmentation(segmenter="learnt"), translator.model)
        insisting.head = translator.segmentation.head
        assert not list(read_segments(wave, segmentation=insisting)) and not caplog.text

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

    def test_windows_that_are_encoded_together_are_heard_as_alone(self, trained, prepared):
        segmenter = make_segmenter(Segmentation(), load_model(trained, prepared)[0].eval())
        generator = np.random.default_rng(2)
        windows = [
            (0.1 * generator.standard_normal(size)).astype(np.float32)
            for size in (RATE, RATE, 12_345, RATE, 100)
        ]
        windows.insert(1, np.zeros(RATE, np.float32))
        stride = frame_stride(segmenter.encoder.convolutions)
        together = segmenter._probabilities(windows, stride)
        for window, heard in zip(windows, together):
            (alone,) = segmenter._probabilities([window], stride)
            assert len(heard) == -(-len(window) // stride)
            np.testing.assert_allclose(heard, alone, atol=1e-5)
        assert not together[1].any()

    @pytest.mark.gpu
    @pytest.mark.parametrize("fp16", [False, True])
    def test_a_gpu_hears_the_same(self, trained, prepared, fp16):
        """Several windows at once, and a shorter one at the end."""
        wave = (0.1 * np.random.default_rng(1).standard_normal(200 * RATE + 7)).astype(np.float32)
        wave[90 * RATE : 130 * RATE] = 0
        slow, fast = (
            Translator.load(trained, data=prepared, device=device, fp16=half).segmentation
            for device, half in (("cpu", False), ("cuda", fp16))
        )
        expected, heard = (one.listen(np.array_split(wave, 9), RATE) for one in (slow, fast))
        assert (heard.hop, heard.samples) == (expected.hop, expected.samples)
        np.testing.assert_allclose(
            heard.probabilities, expected.probabilities, atol=0.02 if fp16 else 1e-3
        )

    @pytest.mark.gpu
    def test_a_gpu_trains_it(self, checkpoint, prepared, tmp_path):
        path = tmp_path / "model.pt"
        flags = ["--updates", "3", "--windows", "12", "--device", "cuda", "-o", str(path)]
        assert main(["train-segmenter", str(checkpoint), str(prepared), *flags]) == 0
        state = torch.load(path, weights_only=True)["segmenter"]
        assert all(tensor.device.type == "cpu" for tensor in state["tensors"].values())

    @pytest.mark.parametrize("samples", [1, 50, 399, 400, 4_000])
    @pytest.mark.parametrize("rate", [8_000, RATE, 48_000])
    def test_a_recording_shorter_than_a_window(self, trained, prepared, samples, rate):
        segmenter = make_segmenter(Segmentation(), load_model(trained, prepared)[0].eval())
        wave = np.sin(np.arange(samples, dtype=np.float32))
        heard = segmenter.listen([wave], rate)
        assert heard.samples == samples
        assert abs(len(heard.probabilities) * heard.hop - samples) <= 4 * heard.hop
        for span in cut([wave], rate, segmenter):
            assert 0 <= span.offset < span.offset + span.frames <= samples

    def test_features_are_kept_for_several_updates(self, trained, prepared):
        encoder = load_model(trained, prepared)[0].eval().encoder.hubert
        heard = []

        def sound():
            while True:
                heard.append(6)
                labels = torch.full((6, 10), float(len(heard)))
                yield torch.rand(6, 3_200), labels, torch.ones(6, 10)

        examples = Examples(encoder, sound(), Options(updates=20, windows=KEPT + 60))
        seen = set()
        for update in range(20):
            features, labels, weights = examples.batch(update)
            assert len(features) == len(labels) == len(weights) == BATCH
            assert features.dtype == torch.float32 and features.shape[:2] == labels.shape
            assert sum(heard) >= KEPT and len(examples.kept) == KEPT
            seen |= set(labels[:, 0].tolist())
        assert KEPT + 50 <= sum(heard) <= KEPT + 60 and max(seen) > KEPT / 6
        few = Examples(encoder, sound(), Options(updates=20, windows=3))
        assert len(few.batch(0)[0]) == len(few.batch(19)[0]) == 6

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


@pytest.fixture
def precut(prepared, tmp_path):
    """A prepared folder whose only segment is a whole file."""
    folder = tmp_path / "precut"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(RATE), RATE)
    (folder / "config.yaml").write_text((prepared / "config.yaml").read_text())
    header = (prepared / "train.tsv").read_text().splitlines()[:2]
    fields = dict(zip(header[0].split("\t"), header[1].split("\t")))
    fields["audio"] = str(folder / "a.wav")
    line = "\t".join(fields[name] for name in header[0].split("\t"))
    (folder / "train.tsv").write_text(f"{header[0]}\n{line}\n")
    for name in ("spm_unigram50.model", "spm_unigram50.txt"):
        (folder / name).write_bytes((prepared / name).read_bytes())
    return folder


def test_segments_that_are_files_of_their_own_teach_nothing(precut):
    with pytest.raises(NothingToLearn, match="a file of its own"):
        read_segmentation(precut, "train")


def test_if_possible_writes_the_model_as_it_is(precut, prepared, hubert, tmp_path, capsys):
    model, output = make_checkpoint(tmp_path / "model.pt", prepared, hubert), tmp_path / "out.pt"
    command = ["train-segmenter", str(model), str(precut), "-o", str(output)]
    assert main(command) != 0 and not output.exists()
    assert main([*command, "--if-possible"]) == 0
    assert "without a segmenter" in capsys.readouterr().out
    before, after = (torch.load(path, weights_only=True) for path in (model, output))
    assert before.keys() == after.keys() and "segmenter" not in after
