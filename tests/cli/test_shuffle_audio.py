"""The control manifest: every recording kept, none with its own sentence."""

import pytest

from cress_svcd.cli.main import main
from cress_svcd.cli.shuffle_audio import other_sentences
from cress_svcd.data.corpus.manifest import Segment, read_manifest, write_manifest
from cress_svcd.errors import ManifestError


def test_every_sentence_gets_another_recording(tmp_path):
    rows = [Segment(str(i), f"{i}.wav:0:{i + 500}", i + 500, f"text {i % 7}") for i in range(30)]
    write_manifest(tmp_path / "test.tsv", rows)
    main(["shuffle-audio", str(tmp_path / "test.tsv"), "-o", str(tmp_path / "control.tsv")])
    before, after = read_manifest(tmp_path / "test.tsv"), read_manifest(tmp_path / "control.tsv")
    assert list(after["tgt_text"]) == list(before["tgt_text"])
    assert sorted(after["audio"]) == sorted(before["audio"])
    said = dict(zip(before["audio"], before["tgt_text"]))
    assert all(said[audio] != text for audio, text in zip(after["audio"], after["tgt_text"]))
    assert all(audio.endswith(f":{n}") for audio, n in zip(after["audio"], after["n_frames"]))


def test_the_seed_decides():
    texts = [str(i) for i in range(20)]
    assert other_sentences(texts, 1, "x") != other_sentences(texts, 2, "x")


def test_one_sentence_for_most_of_them_is_an_error():
    with pytest.raises(ManifestError, match="more than half"):
        other_sentences(["a", "a", "b"], 1, "x")
