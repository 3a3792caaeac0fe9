"""Segments of a split: their order, limits and ends; what is dropped is counted."""

import numpy as np
import pytest
import soundfile

from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.mustc import Release
from cress_svcd.data.corpus.split_report import Limits
from cress_svcd.data.corpus.usable_segments import prepare_split
from cress_svcd.errors import ReleaseError
from tests.helpers.mustc_release import PAIR, RATE, Talk, make_split, noise, rewrite


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
    broken[5 * RATE : 6 * RATE] = np.nan
    soundfile.write(wav / "c.wav", broken, RATE, subtype="FLOAT")
    (wav / "d.wav").write_bytes((wav / "d.wav").read_bytes()[:44])
    (wav / "e.wav").write_text("no sound")
    release = Release(tmp_path, "de")
    message = r"d.wav: holds no samples.*2 of 5 audio files of train are unusable.*--check-audio"
    with pytest.raises(ReleaseError, match=message):
        prepare_split(release, "train", Limits())
    segments, report = prepare_split(release, "train", Limits(), check_audio=True, workers=2)
    assert [segment.id for segment in segments] == ["a_0", "a_1", "b_1", "c_0"]
    assert report.dropped == {"unreadable audio": 4, "silent": 1, "NaN or infinite samples": 1}
    assert report.segments == 4


def test_segments_behind_the_end_of_a_cut_talk_are_named(tmp_path, caplog):
    make_split(tmp_path, "train", [Talk("a.wav", [(0, 1, *PAIR), (5, 1, *PAIR)])])
    path = tmp_path / "train" / "wav" / "a.wav"
    path.write_bytes(path.read_bytes()[: 44 + 8 * RATE])
    release = Release(tmp_path, "de")
    with pytest.raises(ReleaseError, match=r"row 2: ends at 6.00 s, but .*a.wav at 4.00 s"):
        prepare_split(release, "train", Limits())
    assert "a.wav: has 4.0 s of the 10.0 s that its header announces" in caplog.text
    segments, report = prepare_split(release, "train", Limits(), check_audio=True)
    assert [segment.id for segment in segments] == ["a_0"]


def test_duplicates_are_kept_and_counted(tmp_path):
    make_split(tmp_path, "train", [Talk("a.wav", [(0, 1, *PAIR)] * 3)])
    segments, report = prepare_split(Release(tmp_path, "de"), "train", Limits())
    assert len({segment.id for segment in segments}) == 3
    assert report.duplicates == 2
