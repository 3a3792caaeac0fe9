"""Audio in a few large files: the same waveforms, the same training data."""

import shutil

import numpy as np
import pytest
import soundfile
import yaml

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.audio_shards import is_sharded
from cress_svcd.data.corpus.manifest import read_manifest
from tests.helpers.training_options import make_task

SPLITS = ("train", "dev", "tst-COMMON")


def run(*arguments) -> int:
    return main(["shard-audio", *map(str, arguments)])


def waves(folder, split: str) -> list[np.ndarray]:
    root = folder / yaml.safe_load((folder / "config.yaml").read_text())["audio_root"]
    return [read_audio(spec, root) for spec in read_manifest(folder / f"{split}.tsv")["audio"]]


@pytest.fixture
def data(prepared, tmp_path):
    """Prepared data whose audio can be replaced."""
    folder = shutil.copytree(prepared, tmp_path / "data")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    shutil.copytree(config["audio_root"], folder / "release")
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "audio_root": "release"}))
    return folder


@pytest.mark.parametrize("flags", [(), ("--exact",)])
def test_the_same_waveforms_without_the_release(data, tmp_path, capsys, flags):
    wanted = {split: waves(data, split) for split in SPLITS}
    texts = {split: read_manifest(data / f"{split}.tsv") for split in SPLITS}
    out = tmp_path / "shards"
    assert run(data, "-o", out, "--megabytes", "1", "--workers", "2", *flags) == 0
    assert "rounded" not in capsys.readouterr().out
    shutil.rmtree(data)
    for split in SPLITS:
        found = waves(out, split)
        assert len(found) == len(wanted[split])
        assert all(map(np.array_equal, found, wanted[split]))
        manifest = read_manifest(out / f"{split}.tsv")
        for column in ("id", "n_frames", "tgt_text", "src_text"):
            assert manifest[column].tolist() == texts[split][column].tolist()
    files = list((out / "audio").iterdir())
    assert len(files) > len(SPLITS), "the training split needs several"
    assert max(file.stat().st_size for file in files) <= 1_000_100
    assert len({file.name.rsplit("-", 1)[0] for file in files}) == len(SPLITS)


ENDLESS = [f"train-00000.wav:{100 * k}:100" for k in range(5)]


@pytest.mark.parametrize(
    "audio, expected",
    [
        (ENDLESS, True),
        ([*ENDLESS, "train-00001.wav:0:70", "dev-00000.wav:0:9"], True),
        (ENDLESS[::-1], True),
        (["train-00000.wav:0:100"], False),  # how a corpus may name its own files
        (ENDLESS[1:], False),
        ([*ENDLESS[:2], *ENDLESS[3:]], False),
        ([spec.replace("train-", "talks/train-") for spec in ENDLESS], False),
        ([spec.replace("-00000", "_0") for spec in ENDLESS], False),
        ([spec.replace("-00000", "-00001") for spec in ENDLESS], False),
        ([*ENDLESS, "talk.wav:0:100"], False),
        (["train-00000.wav"], False),
        ([], False),
    ],
)
def test_shards_are_known_also_where_the_folder_does_not_say_so(audio, expected):
    assert is_sharded({}, audio) is expected
    assert is_sharded({"sharded": True}, audio) is True


def test_a_task_reads_it_as_it_reads_the_release(data, tmp_path):
    assert run(data, "-o", tmp_path / "shards") == 0
    batches = []
    for folder in (data, tmp_path / "shards"):
        task = make_task(folder, "--st-training")
        task.load_dataset("dev")
        dataset = task.dataset("dev")
        batches.append(dataset.collater([dataset[index] for index in range(4)]))
    one, other = (batch["net_input"]["src_tokens"] for batch in batches)
    assert one.shape == other.shape and (one == other).all()


def loud(path, rate: int, channels: int) -> None:
    """As long as before, but noise of full scale in 24 bits."""
    old = soundfile.info(path)
    rng = np.random.default_rng(1)
    samples = round(old.frames / old.samplerate * rate)
    wave = rng.uniform(-1, 1, (samples, channels))
    soundfile.write(path, wave, rate, subtype="PCM_24")


def test_what_16_bits_cannot_hold_is_rounded_and_counted(data, tmp_path, capsys):
    for path in (data / "release" / "dev" / "wav").iterdir():
        loud(path, 16_000, 2)
    out = tmp_path / "shards"
    assert run(data, "-o", out) == 0
    assert "12 segments in 1 files, 12 of them rounded to 16 bits" in capsys.readouterr().out
    for found, wanted in zip(waves(out, "dev"), waves(data, "dev")):
        assert np.abs(found - wanted).max() <= 1 / 65_536 + 1e-7
    assert run(data, "-o", tmp_path / "exact", "--exact") == 0
    assert all(map(np.array_equal, waves(tmp_path / "exact", "dev"), waves(data, "dev")))


def test_full_scale_survives(tmp_path):
    from cress_svcd.data.audio_shards import Shard, write_shard

    samples = np.array([-32768, 32767, 0, 1, -1, 16385, -20001], dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="PCM_16")
    shard = Shard(tmp_path / "s.wav", ["a.wav"], [7], str(tmp_path), False)
    assert write_shard(shard) == 0
    assert np.array_equal(soundfile.read(tmp_path / "s.wav", dtype="int16")[0], samples)


@pytest.mark.parametrize(
    "model, dictionary, found",
    [
        ("vocab/spm.model", "vocab/dict.txt", ("vocab/spm.model", "vocab/dict.txt")),
        ("./a/../spm.model", "dict.txt", ("spm.model", "dict.txt")),
        ("../spm/same", "../dict/same", ("same", "_same")),
        ("../config.yaml", "dict.txt", ("_config.yaml", "dict.txt")),
    ],
)
def test_the_vocabulary_may_lie_in_another_folder(data, tmp_path, model, dictionary, found):
    config = yaml.safe_load((data / "config.yaml").read_text())
    names = config["bpe_tokenizer"]["sentencepiece_model"], config["vocab_filename"]
    for old, new in zip(names, (model, dictionary)):
        (data / new.replace("a/../", "")).parent.mkdir(exist_ok=True)
        (data / old).rename(data / new.replace("a/../", ""))
    (data / "a").mkdir(exist_ok=True)
    config["bpe_tokenizer"]["sentencepiece_model"], config["vocab_filename"] = model, dictionary
    (data / "config.yaml").write_text(yaml.safe_dump(config))
    (data / "._train.tsv").write_bytes(bytes.fromhex("0005160700020000"))
    out = tmp_path / "far" / "shards"
    assert run(data, "-o", out) == 0
    before = sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(out))
    assert not [path for path in before if path.is_relative_to(tmp_path / "far" / "spm")]
    shards = yaml.safe_load((out / "config.yaml").read_text())
    assert (shards["bpe_tokenizer"]["sentencepiece_model"], shards["vocab_filename"]) == found
    original = make_task(data, "--st-training").tgt_dict
    shutil.rmtree(data)
    assert make_task(out, "--st-training").tgt_dict.symbols == original.symbols


class TestErrors:
    def test_a_broken_manifest_is_told_before_anything_is_written(self, data, tmp_path, capsys):
        (data / "tst-COMMON.tsv").write_text("id\taudio\n")
        self.check(capsys, "tst-COMMON.tsv: no segments", data, "-o", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_missing_vocabulary_is_told_before_anything_is_written(self, data, tmp_path, capsys):
        next(data.glob("*.model")).unlink()
        self.check(capsys, "which", data, "-o", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def check(self, capsys, message, *arguments):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err

    def test_no_data(self, tmp_path, capsys):
        self.check(capsys, "config.yaml: cannot be read", tmp_path, "-o", tmp_path / "out")

    def test_the_same_folder(self, data, capsys):
        self.check(capsys, "the folder of DATA", data, "-o", data)

    def test_a_size_that_no_wav_has(self, data, tmp_path, capsys):
        out = tmp_path / "out"
        self.check(capsys, "expected 1 to 4000", data, "-o", out, "--megabytes", "5000")

    def test_a_missing_recording_leaves_no_config(self, data, tmp_path, capsys):
        next((data / "release" / "dev" / "wav").iterdir()).unlink()
        self.check(capsys, "does not exist", data, "-o", tmp_path / "out")
        assert not (tmp_path / "out" / "config.yaml").exists()

    def test_another_length_than_the_manifest_says(self, data, tmp_path, capsys):
        manifest = (data / "dev.tsv").read_text().splitlines()
        fields = manifest[1].split("\t")
        fields[2] = str(int(fields[2]) + 5)
        (data / "dev.tsv").write_text("\n".join([manifest[0], "\t".join(fields)]) + "\n")
        self.check(capsys, "but the manifest says", data, "-o", tmp_path / "out")
