"""Releases: what is found, what is dropped and counted, and what is refused by name and line."""

import logging
import shutil

import numpy as np
import pytest
import soundfile
import yaml

from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus import mustc
from cress_svcd.data.corpus.mustc import (
    Limits,
    Release,
    Row,
    find_release,
    find_splits,
    prepare_split,
    read_rows,
    read_split,
    segment_ids,
)
from cress_svcd.errors import ReleaseError
from tests.helpers.mustc_release import RATE, Talk, make_release, make_split, noise

PAIR = ("Hello.", "Hallo.")


@pytest.fixture
def release(tmp_path) -> Release:
    """A training split of two talks, the first with ten segments and more, out of order."""
    segments = [(0.5 * i, 0.4, f"Source {i}.", f"Ziel {i}.") for i in range(12)]
    talks = [Talk("ted_10.wav", segments[::-1]), Talk("ted_9.wav", segments[:2], speaker=None)]
    make_split(tmp_path / "en-de" / "data", "train", talks)
    return Release(tmp_path / "en-de" / "data", "de")


def rewrite(path, old, new, count=-1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def test_root_and_pair_folder_are_both_accepted(tmp_path):
    data = make_release(tmp_path, "ro")
    assert find_release(tmp_path, "ro").data == data
    assert find_release(tmp_path / "en-ro", "ro").data == data
    (tmp_path / "en-ro").rename(tmp_path / "unpacked")
    assert find_release(tmp_path / "unpacked", "ro").data == tmp_path / "unpacked" / "data"


@pytest.mark.parametrize("inside", ["", "en-fr"])
def test_missing_language_lists_those_there(tmp_path, inside):
    make_release(tmp_path, "fr")
    with pytest.raises(ReleaseError, match="no en-de .--tgt-lang de.; languages found: fr"):
        find_release(tmp_path / inside, "de")


def test_folder_that_is_not_there_or_no_release(tmp_path):
    with pytest.raises(ReleaseError, match="nowhere: no such folder"):
        find_release(tmp_path / "nowhere", "de")
    with pytest.raises(ReleaseError, match="no language found there"):
        find_release(tmp_path, "de")


def test_splits_are_those_there_in_the_usual_order(tmp_path, caplog):
    data = make_release(tmp_path)
    shutil.copytree(data / "dev", data / "extra")
    release = Release(data, "de")
    with caplog.at_level(logging.INFO):
        assert find_splits(release) == ["train", "dev", "tst-COMMON"]
    assert "extra" in caplog.text
    assert find_splits(release, ["dev", "dev"]) == ["dev"]
    with pytest.raises(ReleaseError, match="no split tst-HE; found dev extra train tst-COMMON"):
        find_splits(release, ["tst-HE", "dev"])


@pytest.mark.parametrize("name", ["train.yaml", "train.en", "train.de"])
def test_missing_text_file(release, name):
    (release.data / "train" / "txt" / name).unlink()
    with pytest.raises(ReleaseError, match=f"txt/{name}: missing; .* holds train"):
        find_splits(release)


def test_missing_audio_folder(release):
    shutil.rmtree(release.data / "train" / "wav")
    with pytest.raises(ReleaseError, match="train/wav: missing"):
        find_splits(release)


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


def test_order_is_numeric_and_ids_are_stable(release):
    segments, report = prepare_split(release, "train", Limits())
    assert [s.id for s in segments] == [f"ted_10_{i}" for i in range(12)] + ["ted_9_0", "ted_9_1"]
    offsets = [int(segment.audio.split(":")[1]) for segment in segments]
    assert offsets == [8000 * i for i in range(12)] + [0, 8000]
    assert [s.src_text for s in segments[9:12]] == ["Source 9.", "Source 10.", "Source 11."]
    assert segments[3].audio == "train/wav/ted_10.wav:24000:6400"
    assert (segments[3].n_frames, segments[3].speaker) == (6400, "spk.1")
    assert (segments[3].src_lang, segments[3].tgt_lang) == ("en", "de")
    assert segments[-1].speaker == ""
    assert (report.rows, report.segments, report.audio_files) == (14, 14, 2)
    assert report.hours == pytest.approx(14 * 0.4 / 3600, abs=1e-4)
    # What is dropped leaves a gap; the others keep their ids.
    rewrite(release.text_file("train", "en"), "Source 3.", " \t ")
    ids = [segment.id for segment in prepare_split(release, "train", Limits())[0]]
    assert "ted_10_3" not in ids and ids[3] == "ted_10_4"


def test_ids_are_unique_where_stems_coincide():
    rows = [Row(wav, 0.0, 1.0, "") for wav in ["a/x.wav", "b/x.wav", "x.flac", "x.wav", "b_x.wav"]]
    ids = segment_ids(rows * 2)
    assert len(set(ids)) == len(ids) == 10
    assert ids[0] == "x_0" and ids[5] == "x_1"


def test_dropped_segments_are_counted_by_reason(tmp_path):
    segments = [
        (0, 1, *PAIR),
        (1, 0.05, *PAIR),
        (2, 0, *PAIR),
        (3, 4, *PAIR),
        (7, 1, "", "Hallo."),
        (8, 1, "Hello.", " \u3000"),
    ]
    for split in ("train", "dev"):
        make_split(tmp_path, split, [Talk("a.wav", segments)])
    release, limits = Release(tmp_path, "de"), Limits(1_000, 3 * RATE)
    kept, report = prepare_split(release, "train", limits)
    assert [segment.id for segment in kept] == ["a_0"]
    assert report.dropped == {"too short": 2, "too long": 1, "empty text": 2}
    # A test set keeps its long sentences.
    kept, report = prepare_split(release, "dev", limits)
    assert [segment.id for segment in kept] == ["a_0", "a_3"]
    assert report.dropped == {"too short": 2, "empty text": 2}
    assert report.longer_than_limit_but_kept == 1


def test_limits_are_included(tmp_path):
    make_split(tmp_path, "train", [Talk("a.wav", [(0, 0.0625, *PAIR), (1, 2, *PAIR)])])
    release = Release(tmp_path, "de")
    assert len(prepare_split(release, "train", Limits(1_000, 2 * RATE))[0]) == 2
    assert len(prepare_split(release, "train", Limits(1_001, 2 * RATE))[0]) == 1
    assert len(prepare_split(release, "train", Limits(1_000, 2 * RATE - 1))[0]) == 1
    with pytest.raises(ReleaseError, match="none of 2 segments .*too short: 1, too long: 1"):
        prepare_split(release, "train", Limits(1_001, 2 * RATE - 1))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("offset: 2.5,", "offset: x,", "row 7: offset is 'x'; expected a number"),
        ("offset: 2.5,", "offset: -2.5,", "row 7: offset is -2.5; expected"),
        ("offset: 2.5,", "", "row 7: offset is None; expected"),
        ("duration: 0.4, offset: 2.5,", "duration: .nan, offset: 2.5,", "row 7: duration is nan"),
        ("duration: 0.4, offset: 2.5,", "duration: yes, offset: 2.5,", "row 7: duration is True"),
        ("offset: 2.5, rW: 9, uW: 0, speaker_id: spk.1, wav: ted_10.wav", "offset: 2.5", "no wav"),
        ("- {duration: 0.4, offset: 2.5", "- nothing\n- {duration: 0.4, offset: 2.5", "'nothing'"),
        ("offset: 2.5,", "offset: [2.5,", "is not valid YAML"),
        ("offset: 2.5,", "offset: \x012.5,", "is not valid YAML"),
    ],
)
def test_broken_rows_are_named_by_line(release, old, new, message):
    path = release.text_file("train", "yaml")
    path.write_text("# written by hand\n" + path.read_text())
    rewrite(path, old, new)
    line = "" if "\x01" in new else ":8"
    with pytest.raises(ReleaseError, match=f"train.yaml{line}: .*{message}"):
        read_rows(path)


@pytest.mark.parametrize(
    "content, message",
    [("", "no segments"), ("[]", "no segments"), ("{a: 1}", "a dict; expected a list")],
)
def test_yaml_without_rows(tmp_path, content, message):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ReleaseError, match=f"a.yaml: .*{message}"):
        read_rows(tmp_path / "a.yaml")


@pytest.fixture
def small_blocks(monkeypatch):
    """Rows are parsed ten at a time."""
    monkeypatch.setattr(mustc, "_YAML_ROWS_AT_ONCE", 10)


@pytest.mark.parametrize("flow", [True, False])
def test_yaml_in_other_styles(tmp_path, small_blocks, flow):
    # One object in all rows: PyYAML writes an anchor once and aliases (*id001) everywhere else.
    shared = {"a": [1]}
    items = [
        {"wav": f"t {i}: ü.wav", "offset": i, "duration": "1e-1", "speaker_id": i, "extra": shared}
        for i in range(35)
    ]
    text = yaml.dump(items, default_flow_style=flow, allow_unicode=flow)
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    expected = [Row(f"t {i}: ü.wav", i, 0.1, str(i)) for i in range(35)]
    assert read_rows(tmp_path / "a.yaml") == expected


def test_a_broken_row_behind_the_first_block(tmp_path, small_blocks):
    row = "- {duration: 1, offset: 2, wav: a.wav}\n"
    path = tmp_path / "a.yaml"
    path.write_text(row * 35 + "- {duration: 1, offset: 2, wav: [}\n" + row)
    with pytest.raises(ReleaseError, match="a.yaml:36: is not valid YAML"):
        read_rows(path)
    path.write_text(row * 35 + "- {duration: 1, wav: a.wav}\n" + row)
    with pytest.raises(ReleaseError, match="a.yaml:36: row 36: offset is None"):
        read_rows(path)


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


def test_precut_segments_under_their_ids(release):
    wav = release.data / "train" / "wav"
    (wav / "ted_9.wav").unlink()
    cuts = [noise(6400, seed=number) for number in range(2)]
    for number, cut in enumerate(cuts):
        np.save(wav / f"ted_9_{number}.npy", cut)
    segments, _ = prepare_split(release, "train", Limits())
    for segment, cut in zip(segments[-2:], cuts):
        np.testing.assert_array_equal(read_audio(segment.audio, release.data), cut)


def test_precut_segments_named_in_the_yaml_with_the_offsets_of_the_talk(release):
    wav = release.data / "train" / "wav"
    cut = noise(6400, seed=3)
    np.save(wav / "cut.npy", cut)
    path = release.text_file("train", "yaml")
    rewrite(path, "offset: 0.5, rW: 9, uW: 0, wav: ted_9.wav", "offset: 0.5, wav: cut.npy")
    segment = prepare_split(release, "train", Limits())[0][-1]
    assert (segment.id, segment.audio) == ("cut_0", "train/wav/cut.npy:0:6400")
    np.testing.assert_array_equal(read_audio(segment.audio, release.data), cut)


@pytest.mark.parametrize("rate, channels, name", [(44_100, 2, "a.wav"), (8_000, 1, "a.ogg")])
def test_other_rates_and_channels(tmp_path, rate, channels, name):
    make_split(tmp_path, "train", [Talk("a.wav", [(1, 1.5, *PAIR), (2.25, 2, *PAIR)])])
    folder = tmp_path / "train" / "wav"
    (folder / "a.wav").unlink()
    soundfile.write(folder / name, noise(10 * rate * channels).reshape(-1, channels), rate)
    segments, _ = prepare_split(Release(tmp_path, "de"), "train", Limits())
    assert segments[1].audio == f"train/wav/{name}:{round(2.25 * rate)}:{2 * rate}"
    assert [segment.n_frames for segment in segments] == [24_000, 32_000]
    for segment in segments:
        assert len(read_audio(segment.audio, tmp_path)) == segment.n_frames


def test_segment_past_the_end(tmp_path):
    make_split(tmp_path, "train", [Talk("a.wav", [(0, 1, *PAIR), (9, 1.5, *PAIR), (11, 1, *PAIR)])])
    release = Release(tmp_path, "de")
    path = release.text_file("train", "yaml")
    path.write_text("# written by hand\n" + path.read_text())
    message = r"train.yaml:3: row 2: ends at 10.50 s, but .*a.wav at 10.00 s \(2 such rows"
    with pytest.raises(ReleaseError, match=message):
        prepare_split(release, "train", Limits())
    segments, report = prepare_split(release, "train", Limits(), check_audio=True)
    assert len(segments) == 1
    assert report.dropped == {"past the end of the audio": 2}


def test_segment_that_runs_over_by_a_rounding_is_cut(tmp_path):
    make_split(tmp_path, "train", [Talk("a.wav", [(0, 1, *PAIR), (9, 1.03, *PAIR)])])
    segments, report = prepare_split(Release(tmp_path, "de"), "train", Limits())
    assert segments[1].audio == "train/wav/a.wav:144000:16000"
    assert segments[1].n_frames == 16_000
    assert report.clipped_at_end == 1


def test_unusable_audio_is_refused_or_dropped(tmp_path):
    talks = [Talk(f"{name}.wav", [(0, 1, *PAIR), (5, 1, *PAIR)]) for name in "abcde"]
    make_split(tmp_path, "train", talks)
    wav = tmp_path / "train" / "wav"
    silent = noise(10 * RATE)
    silent[: 2 * RATE] = 0
    soundfile.write(wav / "b.wav", silent, RATE)
    broken = noise(10 * RATE)
    broken[5 * RATE + 7] = np.nan
    soundfile.write(wav / "c.wav", broken, RATE, subtype="FLOAT")
    (wav / "d.wav").write_bytes((wav / "d.wav").read_bytes()[:200_000])
    (wav / "e.wav").write_text("no sound")
    release = Release(tmp_path, "de")
    message = r"d.wav: is truncated.*2 of 5 audio files of train are unusable.*--check-audio"
    with pytest.raises(ReleaseError, match=message):
        prepare_split(release, "train", Limits())
    segments, report = prepare_split(release, "train", Limits(), check_audio=True, workers=2)
    assert [segment.id for segment in segments] == ["a_0", "a_1", "b_1", "c_0"]
    assert report.dropped == {"unreadable audio": 4, "silent": 1, "NaN or infinite samples": 1}
    assert report.segments == 4


@pytest.mark.parametrize("kind", ["silent", "broken"])
def test_recordings_are_looked_into(tmp_path, kind):
    make_split(tmp_path, "train", [Talk(f"{name}.wav", [(0, 2, *PAIR)]) for name in "ab"])
    wave = np.zeros(10 * RATE)
    if kind == "broken":
        wave = noise(10 * RATE)
        wave[100] = np.nan
    soundfile.write(tmp_path / "train" / "wav" / "b.wav", wave, RATE, subtype="FLOAT")
    release = Release(tmp_path, "de")
    found = {"silent": "is silent", "broken": "1 of 16000 samples are NaN"}[kind]
    with pytest.raises(ReleaseError, match=rf"b.wav.*{found}.*\(1 of 2 recordings.*--check-audio"):
        prepare_split(release, "train", Limits())
    assert len(prepare_split(release, "train", Limits(), sample_audio=False)[0]) == 2


def test_a_pause_of_a_second_is_no_silence(tmp_path):
    make_split(tmp_path, "train", [Talk("a.wav", [(0, 3, *PAIR)])])
    wave = noise(10 * RATE)
    wave[: 2 * RATE] = 0
    soundfile.write(tmp_path / "train" / "wav" / "a.wav", wave, RATE)
    assert len(prepare_split(Release(tmp_path, "de"), "train", Limits())[0]) == 1


def test_audio_damaged_in_the_middle_is_found_by_decoding(tmp_path):
    make_split(tmp_path, "train", [Talk("a.flac", [(float(i), 1, *PAIR) for i in range(10)])])
    path = tmp_path / "train" / "wav" / "a.flac"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 5_000] = bytes(5_000)
    path.write_bytes(content)
    _, report = prepare_split(Release(tmp_path, "de"), "train", Limits(), check_audio=True)
    assert 1 <= report.dropped["unreadable audio"] <= 3


def test_duplicates_are_kept_and_counted(tmp_path):
    make_split(tmp_path, "train", [Talk("a.wav", [(0, 1, *PAIR)] * 3)])
    segments, report = prepare_split(Release(tmp_path, "de"), "train", Limits())
    assert len({segment.id for segment in segments}) == 3
    assert report.duplicates == 2
