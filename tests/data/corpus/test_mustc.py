"""Releases: what is found, what is dropped and counted, and what is refused by name and line."""

import logging
import shutil
import unicodedata
from pathlib import Path

import pytest
import soundfile

from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.mustc import Release, read_split
from cress_svcd.data.corpus.split_report import Limits
from cress_svcd.data.corpus.usable_segments import prepare_split
from cress_svcd.errors import ReleaseError
from tests.helpers.mustc_release import make_release, rewrite


def test_root_and_pair_folder_are_both_accepted(tmp_path):
    data = make_release(tmp_path, "ro")
    assert Release.find(tmp_path, "ro").data == data
    assert Release.find(tmp_path / "en-ro", "ro").data == data
    (tmp_path / "en-ro").rename(tmp_path / "unpacked")
    assert Release.find(tmp_path / "unpacked", "ro").data == tmp_path / "unpacked" / "data"


@pytest.mark.parametrize("inside", ["", "en-fr"])
def test_missing_language_lists_those_there(tmp_path, inside):
    make_release(tmp_path, "fr")
    with pytest.raises(ReleaseError, match="no en-de .--tgt-lang de.; languages found: fr"):
        Release.find(tmp_path / inside, "de")


def test_folder_that_is_not_there_or_no_release(tmp_path):
    with pytest.raises(ReleaseError, match="nowhere: no such folder"):
        Release.find(tmp_path / "nowhere", "de")
    with pytest.raises(ReleaseError, match="no language found there"):
        Release.find(tmp_path, "de")


def test_splits_are_those_there_in_the_usual_order(tmp_path, caplog):
    data = make_release(tmp_path)
    shutil.copytree(data / "dev", data / "extra")
    release = Release(data, "de")
    with caplog.at_level(logging.INFO):
        assert release.find_splits() == ["train", "dev", "tst-COMMON"]
    assert "extra" in caplog.text
    assert release.find_splits(["dev", "dev"]) == ["dev"]
    with pytest.raises(ReleaseError, match="no split tst-HE; found dev extra train tst-COMMON"):
        release.find_splits(["tst-HE", "dev"])


@pytest.mark.parametrize("name", ["train.yaml", "train.en", "train.de"])
def test_missing_text_file(release, name):
    (release.data / "train" / "txt" / name).unlink()
    with pytest.raises(ReleaseError, match=f"txt/{name}: missing; .* holds train"):
        release.find_splits()


def test_missing_audio_folder(release):
    shutil.rmtree(release.data / "train" / "wav")
    with pytest.raises(ReleaseError, match="train/wav: missing"):
        release.find_splits()


@pytest.mark.parametrize("suffix", ["en", "de"])
def test_line_counts_that_differ(release, suffix):
    path = release.text_file("train", suffix)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    message = f"train.{suffix}: 13 lines, but .*train.yaml has 14 rows"
    with pytest.raises(ReleaseError, match=message):
        read_split(release, "train")


def test_line_separators_of_unicode_do_not_shift_lines(release):
    path = release.text_file("train", "de")
    rewrite(path, "Ziel 5.", "Ziel\u2028 fünf\x0b.\x1cX\u0085\r!")
    segments, report = prepare_split(release, "train", Limits())
    texts = {segment.src_text: segment.tgt_text for segment in segments[:12]}
    assert texts["Source 5."] == "Ziel fünf . X !"
    assert all(texts[f"Source {i}."] == f"Ziel {i}." for i in range(12) if i != 5)
    assert report.texts_normalised == 1


def test_byte_order_marks_and_carriage_returns(release):
    before, _ = prepare_split(release, "train", Limits())
    for suffix in ("yaml", "en", "de"):
        path = release.text_file("train", suffix)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    after, _ = prepare_split(release, "train", Limits())
    assert after == before


def test_missing_audio_file(release):
    (release.data / "train" / "wav" / "ted_9.wav").unlink()
    message = r"train/wav: no ted_9.wav \(row 13 of train.yaml\).* 1 of 2 audio files are missing"
    with pytest.raises(ReleaseError, match=message):
        prepare_split(release, "train", Limits())


def test_audio_in_sub_folders_and_other_cases_and_containers(release):
    wav = release.data / "train" / "wav"
    (wav / "part 1: été").mkdir()
    (wav / "ted_10.wav").rename(wav / "part 1: été" / "TED_10.WAV")
    sound, rate = soundfile.read(wav / "ted_9.wav")
    (wav / "ted_9.wav").unlink()
    soundfile.write(wav / "ted_9.flac", sound, rate)
    segments, _ = prepare_split(release, "train", Limits())
    assert segments[0].audio == "train/wav/part 1: été/TED_10.WAV:0:6400"
    assert segments[0].id == "ted_10_0"
    assert segments[-1].audio == "train/wav/ted_9.flac:8000:6400"
    for segment in segments:
        assert len(read_audio(segment.audio, release.data)) == segment.n_frames


def test_audio_that_may_be_either_of_two_files(release):
    wav = release.data / "train" / "wav"
    for folder in ("a", "b"):
        (wav / folder).mkdir()
        shutil.copy(wav / "ted_9.wav", wav / folder)
    (wav / "ted_9.wav").unlink()
    with pytest.raises(ReleaseError, match="ted_9.wav may be any of a/ted_9.wav, b/ted_9.wav"):
        prepare_split(release, "train", Limits())


def test_paths_in_the_yaml_name_sub_folders(release):
    wav = release.data / "train" / "wav"
    (wav / "x").mkdir()
    (wav / "ted_9.wav").rename(wav / "x" / "talk.wav")
    rewrite(release.text_file("train", "yaml"), "wav: ted_9.wav", "wav: x/talk.wav")
    segments, _ = prepare_split(release, "train", Limits())
    assert segments[-1].audio == "train/wav/x/talk.wav:8000:6400"


NFC, NFD = (unicodedata.normalize(form, "\u00e9t\u00e9") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("folder", ["", "part \u00e9/"])
@pytest.mark.parametrize("named, there", [(NFC, NFD), (NFD, NFC)])
def test_composed_and_decomposed_names_are_one_file(release, named, there, folder):
    wav = release.data / "train" / "wav"
    form = "NFC" if there == NFC else "NFD"
    place = wav / unicodedata.normalize(form, folder)
    place.mkdir(exist_ok=True)
    (wav / "ted_9.wav").rename(place / f"{there}.wav")
    (wav / "ted_10.wav").rename(wav / f"{there.upper()}2.FLAC.wav")
    yaml = release.text_file("train", "yaml")
    rewrite(yaml, "wav: ted_9.wav", f"wav: {folder}{named}.wav")
    rewrite(yaml, "wav: ted_10.wav", f"wav: {named}2.flac.wav")
    segments, _ = prepare_split(release, "train", Limits())
    assert segments[-1].audio == f"{(place / there).relative_to(release.data)}.wav:8000:6400"
    assert [segments[0].id, segments[-1].id] == [f"{NFC}2.flac_0", f"{NFC}_1"]
    for segment in segments:
        assert len(read_audio(segment.audio, release.data)) == segment.n_frames


def test_of_two_files_whose_spelling_differs_the_exact_one_is_taken(release):
    wav = release.data / "train" / "wav"
    shutil.copy(wav / "ted_9.wav", wav / f"{NFC}.wav")
    (wav / "ted_9.wav").rename(wav / f"{NFD}.wav")
    yaml = release.text_file("train", "yaml")
    rewrite(yaml, "wav: ted_9.wav", f"wav: {NFC}.wav")
    assert f"wav/{NFC}.wav:" in prepare_split(release, "train", Limits())[0][-1].audio
    rewrite(yaml, f"wav: {NFC}.wav", f"wav: {NFD}.wav")
    assert f"wav/{NFD}.wav:" in prepare_split(release, "train", Limits())[0][-1].audio
    (wav / "x").mkdir()
    for name in (NFC, NFD):
        (wav / f"{name}.wav").rename(wav / "x" / f"{name}.wav")
    assert f"wav/x/{NFD}.wav:" in prepare_split(release, "train", Limits())[0][-1].audio
    rewrite(yaml, f"wav: {NFD}.wav", f"wav: {NFC.upper()}.wav")
    with pytest.raises(ReleaseError, match="may be any of"):
        prepare_split(release, "train", Limits())


def test_both_spellings_in_one_yaml_are_one_recording(release):
    wav = release.data / "train" / "wav"
    (wav / "ted_9.wav").rename(wav / f"{NFC}.wav")
    yaml = release.text_file("train", "yaml")
    rewrite(yaml, "wav: ted_9.wav", f"wav: {NFC}.wav", 1)
    rewrite(yaml, "wav: ted_9.wav", f"wav: {NFD}.wav", 1)
    segments, report = prepare_split(release, "train", Limits())
    assert [segment.id for segment in segments[-2:]] == [f"{NFC}_0", f"{NFC}_1"]
    assert report.audio_files == 2


@pytest.mark.parametrize("asked, there", [(NFC, NFD), (NFD, NFC)])
def test_splits_and_roots_in_either_spelling(release, asked, there):
    train = release.data / "train"
    for file in list((train / "txt").iterdir()):
        file.rename(file.with_stem(there))
    train.rename(release.data / there)
    (release.data.parent.parent / there).mkdir()
    release.data.parent.rename(release.data.parent.parent / there / "en-de")
    root = Path(release.data.parent.parent / asked)
    moved = Release.find(root, "de")
    assert moved.find_splits([asked]) == [asked]
    segments, _ = prepare_split(moved, asked, Limits())
    assert segments[0].audio == f"{there}/wav/ted_10.wav:0:6400"
    assert len(read_audio(segments[0].audio, moved.audio_root)) == 6400


def test_texts_that_look_like_something_else(release):
    for number, text in enumerate(["NA", "null", '"quoted', "1:30", "0012", "no", "#"]):
        rewrite(release.text_file("train", "de"), f"Ziel {number}.", text)
    texts = [segment.tgt_text for segment in prepare_split(release, "train", Limits())[0]]
    assert texts[:7] == ["NA", "null", '"quoted', "1:30", "0012", "no", "#"]


@pytest.mark.parametrize("suffix", ["en", "de"])
@pytest.mark.parametrize("text", ["\u200b", "\u00ad\u2060", "\ufeff", "\x1b", "\u3164 \u2800"])
def test_lines_without_a_visible_character_are_dropped_as_empty(release, suffix, text):
    word = "Source" if suffix == "en" else "Ziel"
    rewrite(release.text_file("train", suffix), f"{word} 3.", text)
    segments, report = prepare_split(release, "train", Limits())
    assert report.dropped == {"empty text": 1} and len(segments) == 13


def test_a_name_that_is_too_long_is_missing(release):
    rewrite(release.text_file("train", "yaml"), "wav: ted_9.wav", f"wav: {'x' * 300}.wav")
    with pytest.raises(ReleaseError, match="train/wav: no xxx"):
        prepare_split(release, "train", Limits())
