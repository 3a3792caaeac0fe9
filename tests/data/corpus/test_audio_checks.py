"""Audio that is silent or broken is found, by looking into recordings or by decoding all."""

import numpy as np
import pytest
import soundfile

from cress_svcd.data.corpus.mustc import Release
from cress_svcd.data.corpus.split_report import Limits
from cress_svcd.data.corpus.usable_segments import prepare_split
from cress_svcd.errors import ReleaseError
from tests.helpers.mustc_release import PAIR, RATE, Talk, make_split, noise


@pytest.mark.parametrize("kind", ["silent", "broken"])
def test_recordings_are_looked_into(tmp_path, kind):
    make_split(tmp_path, "train", [Talk(f"{name}.wav", [(0, 2, *PAIR)]) for name in "ab"])
    wave = np.zeros(10 * RATE)
    if kind == "broken":
        wave = noise(10 * RATE)
        wave[: 2 * RATE] = np.nan
    soundfile.write(tmp_path / "train" / "wav" / "b.wav", wave, RATE, subtype="FLOAT")
    release = Release(tmp_path, "de")
    found = {"silent": "is silent", "broken": "16000 of 16000 samples are NaN"}[kind]
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
