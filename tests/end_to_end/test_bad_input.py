"""Bad input to real commands: refused, with the file and the reason."""

import pickle
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch

from cress_svcd.data.corpus.manifest import read_manifest
from tests.helpers.fairseq_commands import generate_command, run_series, train_command


class Malicious:
    """Leaves a trace if it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def rewrite_row(data, split, number, change) -> None:
    """Pass the fields of a row (numbers from 0) through ``change``."""
    path = data / f"{split}.tsv"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[number + 1] = "\t".join(change(lines[number + 1].split("\t")))
    path.write_text("\n".join(lines), encoding="utf-8")


def with_audio(audio):
    return lambda fields: [fields[0], audio, *fields[2:]]


BROKEN_AUDIO = {
    # name of the file, its content, what is said of it
    "truncated": ("truncated.wav", lambda whole: whole[: len(whole) // 2], "batches are filled"),
    "text": ("notes.wav", lambda whole: b"these are my notes\n", "not audio"),
    "empty": ("empty.wav", lambda whole: b"", "empty"),
}


@pytest.fixture(scope="module")
def outcomes(prepared, release, hubert, averaged, elsewhere, tmp_path_factory):
    """What fairseq's commands say of each kind of bad input."""
    root = tmp_path_factory.mktemp("bad")
    recordings = release / "en-de" / "data"

    def broken(name):
        return shutil.copytree(prepared, root / name)

    def training(data):
        return train_command(
            data,
            root / "out",
            "--hubert-model-path",
            hubert,
            "--max-update",
            "1",
            "--no-save",
            "--num-workers",
            "1",
            "--disable-validation",
        )

    def generating(data, checkpoint=averaged, *flags):
        return generate_command(data, checkpoint, "--num-workers", "0", *flags)

    commands = {}

    data = broken("no column")
    path = data / "train.tsv"
    frame = read_manifest(path)
    frame.drop(columns="tgt_text").to_csv(path, sep="\t", index=False)
    commands["no column"] = training(data)

    data = broken("broken row")
    rewrite_row(data, "train", 4, lambda fields: fields[:3])
    commands["broken row"] = training(data)

    data = broken("length")
    column = frame.columns.get_loc("n_frames")
    rewrite_row(
        data, "tst-COMMON", 3, lambda fields: [*fields[:column], "100", *fields[column + 1 :]]
    )
    commands["length"] = generating(data)

    data = broken("past the end")
    name = frame["audio"][0].split(":")[0]
    rewrite_row(data, "tst-COMMON", 7, with_audio(f"{name}:999999999:16000"))
    commands["past the end"] = generating(data)

    whole = (recordings / name).read_bytes()
    for kind, (file, content, _) in BROKEN_AUDIO.items():
        data = broken(kind)
        (root / file).write_bytes(content(whole))
        rewrite_row(data, "tst-COMMON", 3, with_audio(str(root / file)))
        commands[kind] = generating(data)

    data = broken("nan")
    wave = np.zeros(20_000, dtype=np.float32)
    wave[:20_000] = np.nan
    soundfile.write(root / "nan.wav", wave, 16_000, subtype="FLOAT")
    rewrite_row(data, "tst-COMMON", 3, with_audio(f"{root / 'nan.wav'}:0:20000"))
    commands["nan"] = generating(data)

    data = broken("missing")
    rewrite_row(data, "tst-COMMON", 3, with_audio("nowhere.wav:0:16000"))
    commands["missing"] = generate_command(data, averaged, "--num-workers", "1")

    state = torch.load(averaged, weights_only=True)
    del state["model"]["decoder.layers.0.fc1.weight"]
    torch.save(state, root / "other_arch.pt")
    commands["other arch"] = generating(prepared, root / "other_arch.pt")
    for name, change in (
        ("resumed model", ["--encoder-ffn-embed-dim", "64"]),
        ("resumed dictionary", []),
    ):
        state = torch.load(averaged, weights_only=True)
        if not change:
            state["task_state"]["dictionary_digest"] = "another"
        (root / name).mkdir()
        torch.save(state, root / name / "checkpoint_last.pt")
        commands[name] = [*training(prepared), "--save-dir", root / name, *change]
    commands["other task"] = generating(prepared, hubert)
    commands["no checkpoint"] = generating(prepared, root / "nowhere.pt")
    commands["other language"] = generating(prepared, averaged, "--tgt-lang", "ro")
    commands["no split"] = generating(prepared, averaged, "--gen-subset", "tst-HE")
    return run_series(commands, elsewhere)


@pytest.mark.parametrize(
    "name, message",
    [
        ("no column", r"train\.tsv:1: no column tgt_text"),
        ("broken row", r"train\.tsv:6: 3 fields, expected 8"),
        ("length", r"tst-COMMON\.tsv:5: segment \S+: column n_frames says 100 samples"),
        (
            "past the end",
            r"COMMON\.tsv:9: segment \S+: \S+\.wav:999999999:16000: the segment ends at sample .* "
            r"the file at \d+",
        ),
        *((kind, f"{file}.* {said}") for kind, (file, _, said) in BROKEN_AUDIO.items()),
        ("nan", r"nan\.wav:0:20000: 20000 of 20000 samples are NaN"),
        ("missing", r"nowhere\.wav: does not exist"),
        ("other arch", r"other_arch\.pt: .*decoder\.layers\.0\.fc1\.weight"),
        (
            "resumed model",
            r"_last\.pt: .*fc1\.weight: file \(48, 32\), model \(64, 32\).*--save-dir",
        ),
        ("resumed dictionary", r"_last\.pt: .*another dictionary \(digest another\)"),
        ("other task", r"hubert\.pt: is a checkpoint of the task hubert_pretraining .*expected"),
        ("no checkpoint", r"nowhere\.pt"),
        ("other language", r"tst-COMMON\.tsv: column tgt_lang holds de, but ro was asked for"),
        ("no split", r"tst-HE\.tsv: no such manifest; this data folder has dev, train, tst-COMMON"),
    ],
)
def test_the_message_names_the_place_and_the_reason(outcomes, name, message):
    assert outcomes[name].failed
    (*_, last) = re.split(r"^[\w.]+Error: ", outcomes[name].output, flags=re.MULTILINE)
    assert re.search(message, last, re.DOTALL), outcomes[name].output[-3000:]


class TestCheckpoints:
    """By processes of their own: their status counts."""

    def refused(self, run, prepared, path, cwd) -> str:
        result = run(*generate_command(prepared, path), cwd=cwd, check=False)
        assert result.returncode != 0
        return result.stderr

    def test_truncated(self, run, prepared, averaged, elsewhere, tmp_path):
        path = tmp_path / "short.pt"
        path.write_bytes(averaged.read_bytes()[:-5_000])
        said = self.refused(run, prepared, path, elsewhere)
        assert "short.pt: cannot be read as a checkpoint" in said

    def test_malicious(self, run, prepared, averaged, elsewhere, tmp_path):
        marker = tmp_path / "executed"
        state = torch.load(averaged, weights_only=True)
        state["extra_state"]["x"] = Malicious(marker)
        torch.save(state, tmp_path / "evil.pt")
        said = self.refused(run, prepared, tmp_path / "evil.pt", elsewhere)
        assert "evil.pt: refused" in said and "weights_only=False" not in said
        assert "add_safe_globals" not in said
        (tmp_path / "bare.pt").write_bytes(pickle.dumps(Malicious(marker)))
        assert "bare.pt: " in self.refused(run, prepared, tmp_path / "bare.pt", elsewhere)
        assert not marker.exists()
