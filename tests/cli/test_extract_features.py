"""extract-features: training from its output is training from audio."""

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.feature_cache import FeatureCache
from cress_svcd.inference import feature_extraction
from cress_svcd.models.hubert_checkpoint import read_hubert
from cress_svcd.models.hubert_encoder import CONVOLUTIONS, OUTPUT, HubertEncoder
from tests.helpers.hubert_files import make_hubert

pytestmark = pytest.mark.slow

TRAIN = [
    "--user-dir",
    "cress_svcd",
    "--task",
    "speech_and_text_translation",
    "--max-tokens",
    "200000",
    "--criterion",
    "speech_and_text_translation",
    "--arch",
    "hubert_transformer",
    "--optimizer",
    "adam",
    "--lr",
    "0.001",
    "--encoder-layers",
    "1",
    "--decoder-layers",
    "1",
    "--encoder-embed-dim",
    "16",
    "--decoder-embed-dim",
    "16",
    "--encoder-ffn-embed-dim",
    "16",
    "--decoder-ffn-embed-dim",
    "16",
    "--encoder-attention-heads",
    "2",
    "--decoder-attention-heads",
    "2",
    "--conv-channels",
    "16",
    "--dropout",
    "0",
    "--hubert-dropout",
    "0",
    "--max-update",
    "3",
    "--valid-subset",
    "dev",
    "--st-training",
    "--mt-finetune",
    "--log-format",
    "json",
    "--log-interval",
    "1",
    "--no-save",
]


def test_features_are_the_encoders(prepared, hubert, tmp_path, capsys):
    command = ["extract-features", str(prepared), "--hubert-model-path", str(hubert)]
    command += ["-o", str(tmp_path / "output"), "--convolutions", str(tmp_path / "convolved")]
    command += ["--splits", "dev", "--workers", "0"]
    assert main(command) == 0
    frame = read_manifest(prepared / "dev.tsv")
    cache = FeatureCache(tmp_path / "output", "dev", frame)
    convolved = FeatureCache(tmp_path / "convolved", "dev", frame)
    description, state = read_hubert(hubert)
    encoder = HubertEncoder(description, frozen=True)
    encoder.load_pretrained(state, hubert)
    root = yaml.safe_load((prepared / "config.yaml").read_text())["audio_root"]
    for index in (0, len(frame) - 1):
        wave = torch.from_numpy(read_audio(frame["audio"][index], root=root)).unsqueeze(0)
        lengths = torch.tensor([wave.size(1)])
        features, _ = encoder(wave, lengths)
        np.testing.assert_allclose(cache[index], features[0].numpy(), rtol=1e-3, atol=1e-3)
        features, _ = encoder.convolve(wave, lengths)
        np.testing.assert_allclose(convolved[index], features[0].numpy(), rtol=1e-3, atol=1e-3)
    capsys.readouterr()
    assert main(command) == 0
    assert "up to date" in capsys.readouterr().out
    exchanged = command.copy()  # the folders, whose features are then those of another layer
    exchanged[5], exchanged[7] = command[7], command[5]
    assert main(exchanged) == 0
    assert "up to date" not in capsys.readouterr().out


@pytest.mark.parametrize("devices", [1, 2])
def test_batches_on_several_devices_give_the_same_in_the_same_order(hubert, devices):
    torch.manual_seed(1)
    lengths = [4000, 16000, 640, 9000, 7999, 8001, 300, 12000, 16000, 5000, 4001]
    waves = [torch.randn(length) for length in lengths]
    encoder, layers = feature_extraction.frozen_encoder(hubert), [OUTPUT, CONVOLUTIONS]
    expected = [feature_extraction.encode_batch([wave], encoder, layers)[0] for wave in waves]
    encoders = [feature_extraction.frozen_encoder(hubert) for _ in range(devices)]
    found = feature_extraction.encode_in_batches(
        iter(waves), encoders, layers, buffer_size=4, batch_samples=20000
    )
    found = list(found)
    assert len(found) == len(waves)
    for ours, alone in zip(found, expected):
        for layer, reference in zip(ours, alone, strict=True):
            assert layer.dtype == np.float16
            np.testing.assert_allclose(layer, reference, rtol=2e-3, atol=1e-3)


def test_a_window_that_other_processes_read_takes_few_open_files(prepared):
    frame = read_manifest(prepared / "train.tsv")
    root = yaml.safe_load((prepared / "config.yaml").read_text())["audio_root"]
    waves = feature_extraction.Waveforms(prepared / "train.tsv", frame, root, False)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + len(frame) - 5, limits[1])
    )
    try:
        found = list(feature_extraction.read(waves, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [len(wave) for wave in found] == frame["n_frames"].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_on_the_cpu_give_the_same_in_the_same_order(prepared, hubert, workers, monkeypatch):
    frame = read_manifest(prepared / "train.tsv")
    root = yaml.safe_load((prepared / "config.yaml").read_text())["audio_root"]
    waves = feature_extraction.Waveforms(prepared / "train.tsv", frame, root, False)
    monkeypatch.setattr(feature_extraction, "CPU_CHUNK_SIZE", 7)
    monkeypatch.setattr(feature_extraction, "CPU_BATCH_SAMPLES", 40000)
    encoder = feature_extraction.frozen_encoder(hubert)
    found = list(feature_extraction.encode(waves, [encoder], [OUTPUT], workers))
    assert len(found) == len(frame) and len(frame) % 7
    for index, (features,) in enumerate(found):
        ((alone,),) = feature_extraction.encode_batch([waves[index]], encoder, [OUTPUT])
        np.testing.assert_allclose(features, alone, rtol=2e-3, atol=1e-3)


def test_batches_are_of_similar_lengths_and_no_larger_than_asked_for():
    batches = feature_extraction.similar_lengths([5, 30, 7, 6, 100, 29], 60)
    assert batches == [[4], [1, 5], [2, 3, 0]]


def test_a_split_that_is_missing_is_told_before_the_work(prepared, hubert, tmp_path, capsys):
    arguments = [prepared, "--hubert-model-path", hubert, "-o", tmp_path / "out"]
    command = ["extract-features", *arguments, "--splits", "train", "typo"]
    assert main([str(item) for item in command]) == 2
    assert "typo.tsv: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_length_that_is_not_the_recordings_names_its_line(prepared, hubert, tmp_path, capsys):
    for name in ("config.yaml", "dev.tsv"):
        shutil.copy(prepared / name, tmp_path)
    lines = (tmp_path / "dev.tsv").read_text().splitlines()
    header, row = lines[0].split("\t"), lines[2].split("\t")
    frames = header.index("n_frames")
    row[frames] = str(int(row[frames]) + 1000)
    lines[2] = "\t".join(row)
    (tmp_path / "dev.tsv").write_text("\n".join(lines) + "\n")
    command = ["extract-features", str(tmp_path), "--hubert-model-path", str(hubert)]
    command += ["-o", str(tmp_path / "out"), "--splits", "dev", "--workers", "0"]
    assert main(command) != 0
    error = capsys.readouterr().err
    assert "dev.tsv:3: " in error and "n_frames" in error
    assert not list(tmp_path.glob("out/dev*"))


class TestVariants:
    """Of the development set, which is small."""

    @pytest.fixture
    def extract(self, prepared, hubert, tmp_path, capsys):
        """Extract with options; returns what was printed on each variant."""

        def work(*options, status=0, data=prepared) -> dict[str, str]:
            command = ["extract-features", data, "--hubert-model-path", hubert, "-o", tmp_path]
            command += ["--splits", "dev", "--train-split", "dev", "--workers", "0"]
            command += ["--vary-cuts", "0.8", *options]
            assert main([str(item) for item in command]) == status
            output = capsys.readouterr()
            work.warnings = output.err.splitlines()
            lines = output.out.splitlines()
            return dict(line.split(": ", 1) for line in lines if ": " in line)

        return work

    def cache(self, prepared, tmp_path) -> FeatureCache:
        return FeatureCache(tmp_path, "dev", read_manifest(prepared / "dev.tsv"))

    def test_what_is_there_is_up_to_date(self, extract, prepared, tmp_path):
        first = extract("--variants", "2")
        assert list(first) == ["dev-variant1", "dev"]
        assert all("12 segments" in done for done in first.values())
        written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert extract("--variants", "2") == dict.fromkeys(first, "up to date")
        assert written == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        # As a version wrote it that noted neither.
        for name in first:
            path = tmp_path / f"{name}.json"
            about = json.loads(path.read_text())
            del about["join_segments"], about["cuts"]["longest"]
            path.write_text(json.dumps(about))
        assert extract("--variants", "2") == dict.fromkeys(first, "up to date")
        assert self.cache(prepared, tmp_path).variants == 2

    @pytest.mark.parametrize(
        "options, variants",
        [
            (["--variants", "3"], 3),
            (["--variants", "1"], 1),
            (["--variants", "2", "--seed", "5"], 2),
            (["--variants", "2", "--vary-cuts", "0.5"], 2),
            (["--variants", "2", "--max-audio-positions", "50000"], 2),
        ],
    )
    def test_what_is_asked_for_otherwise_is_made_again(
        self, extract, prepared, tmp_path, options, variants
    ):
        extract("--variants", "2")
        done = extract(*options)
        assert len(done) == variants and "up to date" not in done.values()
        cache = self.cache(prepared, tmp_path)
        assert cache.variants == variants
        share = 0.5 if "0.5" in options else 0.8
        assert (cache.cuts.share, cache.cuts.seed) == (share, 5 if "--seed" in options else 1)
        assert cache.longest == (50_000 if "50000" in options else 480_000)

    def test_what_broke_off_is_not_there_and_goes_on(
        self, extract, prepared, tmp_path, monkeypatch
    ):
        extract("--variants", "3")
        whole = [np.load(tmp_path / f"dev{name}.npy") for name in ("", "-variant1", "-variant2")]
        begun = []

        def breaks_off(*arguments):
            begun.append(arguments)
            if len(begun) == 2:
                raise KeyboardInterrupt
            return encode(*arguments)

        encode = feature_extraction.encode
        monkeypatch.setattr(feature_extraction, "encode", breaks_off)
        extract("--variants", "3", "--seed", "5", status=130)
        monkeypatch.undo()
        assert not FeatureCache.exists(tmp_path, "dev")
        assert not list(tmp_path.glob(".*"))
        done = extract("--variants", "3", "--seed", "5")
        assert done.pop("dev-variant2") == "up to date"
        assert list(done) == ["dev-variant1", "dev"] and "up to date" not in done.values()
        assert self.cache(prepared, tmp_path).cuts.seed == 5
        again = [np.load(tmp_path / f"dev{name}.npy") for name in ("", "-variant1", "-variant2")]
        assert not any(map(np.array_equal, whole, again))

    def test_of_both_layers_one_is_made_again(self, extract, prepared, tmp_path):
        both = ["--variants", "2", "--convolutions", tmp_path / "convolved"]
        extract(*both)
        (tmp_path / "convolved" / "dev-variant1.npy").unlink()
        done = extract(*both)
        assert all("(convolutions)" in words and "(output)" not in words for words in done.values())
        assert extract(*both) == dict.fromkeys(done, "up to date")

    def test_of_shards_nothing_is_joined_and_a_line_says_so(self, extract, prepared, tmp_path):
        out = tmp_path / "shards"
        assert main(["shard-audio", str(prepared), "-o", str(out)]) == 0
        extract("--variants", "1", "--join-segments", "0.5", data=out)
        (warning,) = [line for line in extract.warnings if "packed by shard-audio" in line]
        assert warning.endswith(
            f"{out}: its audio was packed by shard-audio, segment behind segment: varied cuts let "
            "in no neighbouring speech, and no segments are joined; the folder that it was made "
            "of has both"
        )
        cache = FeatureCache(tmp_path, "dev", read_manifest(out / "dev.tsv"), 0.0)
        assert len(cache) == 12 and cache.about["join_segments"] == 0


@pytest.mark.parametrize("folders", [[], ["-o", "same", "--convolutions", "same"]])
def test_folders_that_do_not_make_sense(prepared, hubert, folders, capsys):
    command = ["extract-features", str(prepared), "--hubert-model-path", str(hubert), *folders]
    assert main(command) == 2
    assert "--convolutions FOLDER" in capsys.readouterr().err


def logged_losses(output: str) -> list[float]:
    lines = [line for line in output.split("\n") if "| train_inner |" in line]
    return [float(line.split('"st_loss": "')[1].split('"')[0]) for line in lines]


@pytest.mark.parametrize(
    "folder, frozen, stored",
    [
        ("--output", "--freeze-hubert", None),
        ("--convolutions", "--freeze-hubert-convolutions", "hubert_huggingface/base"),
    ],
)
def test_training_from_features_equals_training_from_audio(
    prepared, hubert, tmp_path, run, folder, frozen, stored
):
    hubert = Path(__file__).parents[1] / "fixtures" / stored if stored else hubert
    run("cress-svcd", "extract-features", prepared, "--hubert-model-path", hubert, folder, tmp_path)
    common = ["fairseq-train", prepared, "--hubert-model-path", hubert, frozen, *TRAIN]
    from_audio = run(*common)
    from_features = run(*common, "--feature-cache", tmp_path)
    expected = logged_losses(from_audio.stdout + from_audio.stderr)
    losses = logged_losses(from_features.stdout + from_features.stderr)
    assert len(losses) == 3
    np.testing.assert_allclose(losses, expected, atol=0.01)


def test_of_an_encoder_trained_with_a_translation_model(prepared, hubert, tmp_path, run):
    saved = [option for option in TRAIN if option != "--no-save"]
    run(
        "fairseq-train",
        prepared,
        "--hubert-model-path",
        hubert,
        *saved,
        "--save-dir",
        tmp_path,
        "--lr",
        "0.1",
        "--no-epoch-checkpoints",
    )
    start = tmp_path / "checkpoint_last.pt"
    (_, state), (_, before) = read_hubert(start), read_hubert(hubert)
    name = "encoder.layers.0.fc1.weight"
    assert not torch.equal(state[name], before[name])
    run("cress-svcd", "extract-features", prepared, "--hubert-model-path", start, "-o", tmp_path)
    common = [
        "fairseq-train",
        prepared,
        *TRAIN[: TRAIN.index("--arch")],
        "--arch",
        "quant_transformer",
        "--finetuned-st-model",
        start,
        "--hubert-model-path",
        start,
        "--freeze-hubert",
        *TRAIN[TRAIN.index("--dropout") :],
        "--optimizer",
        "adam",
        "--lr",
        "0.001",
    ]
    from_audio, from_features = run(*common), run(*common, "--feature-cache", tmp_path)
    expected = logged_losses(from_audio.stdout + from_audio.stderr)
    losses = logged_losses(from_features.stdout + from_features.stderr)
    assert len(losses) == 3
    np.testing.assert_allclose(losses, expected, atol=0.01)


def test_another_encoder_or_a_trained_one_is_refused(prepared, hubert, tmp_path, run):
    run("cress-svcd", "extract-features", prepared, "--hubert-model-path", hubert, "-o", tmp_path)
    other = tmp_path / "other.pt"
    make_hubert(other, {"encoder_ffn_embed_dim": 32})
    for encoder, freezing, message in (
        (other, ["--freeze-hubert"], "of another encoder"),
        (hubert, [], "needs --hubert-model-path and --freeze-hubert"),
        (hubert, ["--freeze-hubert-convolutions"], "are of the encoder's output"),
    ):
        failed = run(
            "fairseq-train",
            prepared,
            "--hubert-model-path",
            encoder,
            *freezing,
            *TRAIN,
            "--feature-cache",
            tmp_path,
            check=False,
        )
        assert failed.returncode and message in failed.stderr + failed.stdout
