"""Every format that soundfile writes: joined, cut, or with more behind it, no sound is lost
without a word."""

import re

import numpy as np
import pytest
import soundfile

from cress_svcd.data.audio import AudioSpec, audio_info, read_audio, read_blocks
from cress_svcd.errors import AudioError
from tests.helpers.odd_audio import RATE, encoded, patched, sweep

SECONDS = 1.7
# They have no length, or soundfile writes none: whether they are whole cannot be told.
WITHOUT_LENGTH = ("PAF", "PVF", "IRCAM", "XI")
# Read as a whole alone.
REFUSED_WHEN_NOT_WHOLE = ("HTK",)
FORMATS = [
    (format, subtype)
    for format in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(format)
    # RAW has no header; SD2 keeps it in another file.
    if format not in ("RAW", "SD2")
]


def written(format: str, subtype: str) -> bytes:
    try:
        return encoded(sweep(SECONDS), format, subtype, 8_000 if format == "WVE" else RATE)
    except soundfile.LibsndfileError as error:
        pytest.skip(f"libsndfile does not write it: {error}")


def read(path, content, caplog):
    """What is read of ``content``, at its own rate, and what is said of it."""
    path.write_bytes(content)
    caplog.clear()
    info = audio_info(path)
    wave = read_audio(str(path), sample_rate=info.sample_rate)
    assert len(wave) == audio_info(path).frames  # damage shows when it is read
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 0.3))), wave)
    start = len(wave) // 3
    length = min(900, len(wave) - start)
    segment = read_audio(AudioSpec(str(path), start, length), sample_rate=info.sample_rate)
    np.testing.assert_allclose(segment, wave[start : start + length], atol=1e-5)
    lengths = [
        line for line in caplog.messages if "for silence" not in line and "packets" not in line
    ]
    if lengths[1:]:  # what the header said, then what decoding showed
        assert "cannot be decoded" in lengths[1]
    assert len(lengths) <= 2 and all("\n" not in line for line in lengths)
    return wave, "".join(lengths[-1:]).removeprefix(f"{path}: ")


def read_or_refused(path, content: bytes, caplog) -> tuple[np.ndarray | None, str]:
    """As ``read``; no waveform, and the error's words, where it is refused."""
    try:
        return read(path, content, caplog)
    except AudioError as error:
        return None, str(error)


@pytest.mark.parametrize("format, subtype", FORMATS)
def test_no_sound_is_lost_without_a_word(tmp_path, caplog, format, subtype):
    content = written(format, subtype)
    suffix = format.lower()
    whole, said = read(tmp_path / f"whole.{suffix}", content, caplog)
    assert ("its format tells no length" in said) == (format in WITHOUT_LENGTH)
    assert format in WITHOUT_LENGTH or not said
    # XI has one rate; GSM and ADPCM have whole packets.
    assert format == "XI" or 0 <= len(whole) - SECONDS * RATE < 1000

    cases = {"joined": content + content, "junk": content + np.random.default_rng(1).bytes(4001)}
    # Writers that count their own header as sound are not to be told from a cut of 64 bytes.
    cuts = {cut: min(len(content) * cut // 100, len(content) - 70) for cut in (10, 50, 90, 99)}
    cases |= {f"cut at {cut} %": content[:size] for cut, size in cuts.items()}
    cases["zeros"] = content + bytes(4001)
    for case, odd in cases.items():
        path = tmp_path / f"{case}.{suffix}"
        wave, said = read_or_refused(path, odd, caplog)
        if wave is None:
            # What ends within its header, or within its only page.
            assert said.startswith(f"{path}: ") and "\n" not in said
            assert format in REFUSED_WHEN_NOT_WHOLE or case.startswith("cut"), said
            continue
        seconds = len(wave) / audio_info(path).sample_rate
        if case == "joined":
            np.testing.assert_allclose(wave, np.concatenate([whole, whole]), atol=1e-5)
        elif case.startswith("cut"):
            share = int(case[7:9]) / 100
            assert 0 < len(wave) < len(whole) and len(wave) < 1.15 * share * len(whole)
            sure = max(0, len(wave) - 1500)
            np.testing.assert_allclose(wave[:sure], whole[:sure], atol=1e-5)
        else:
            sure = min(len(whole), round(SECONDS * RATE))  # of the last packet, not what fills it
            np.testing.assert_allclose(wave[:sure], whole[:sure], atol=1e-5)
            if len(wave) == len(whole):
                continue
            assert case == "junk" or format in WITHOUT_LENGTH or subtype.startswith("G72")
            if case == "zeros" and not said:
                continue
        has, rest = re.match(r"has ([\d.]+) s(.*)", said).groups()
        assert abs(float(has) - seconds) <= 0.06
        if format in WITHOUT_LENGTH:
            assert "its format tells no length" in rest
        else:
            assert re.match(r" of the \d|, which are read|; its last", rest)


@pytest.mark.parametrize("subtype", ["GSM610", "DWVW_16", "DWVW_24", "IMA_ADPCM", "PCM_16"])
@pytest.mark.parametrize("part", [1, 0.6])
def test_counts_of_aiff(tmp_path, caplog, subtype, part):
    """libsndfile believes the count of samples, which pipes leave at 0."""
    content = encoded(sweep(SECONDS), "AIFF", subtype)
    expected, _ = read(tmp_path / "a.aiff", content[: int(part * len(content))], caplog)
    for count in (0, 1, 9000, 10**6, (1 << 32) - 1):
        odd = patched(content, b"COMM", 10, ">I", count)[: int(part * len(content))]
        wave, said = read(tmp_path / f"{count}.aiff", odd, caplog)
        assert 0 <= len(wave) - len(expected) < 64
        np.testing.assert_array_equal(wave[: len(expected)], expected)
        if subtype[:3] in ("GSM", "DWV"):
            found = re.search(r"(?:of the|header announces) ([\d.]+) s", said)
            assert (found is not None) == (count > 0)
            assert not count or abs(float(found[1]) - count / RATE) <= 0.06


@pytest.mark.parametrize("format", sorted({format for format, _ in FORMATS}))
def test_headers_of_any_bytes(tmp_path, caplog, format):
    """They are read, or refused on one line; never is there another end, or another second read."""
    subtype = next(subtype for found, subtype in FORMATS if found == format)
    content = written(format, soundfile.default_subtype(format) or subtype)[:20_000]
    random = np.random.default_rng(sum(format.encode()))
    for number in range(25):
        odd = bytearray(content)
        place = int(random.integers(0, min(len(odd) - 8, 400 if number % 2 else 64)))
        width = int(random.choice([1, 2, 4, 8]))
        odd[place : place + width] = random.choice([bytes(8), b"\xff" * 8, random.bytes(8)])[:width]
        path = tmp_path / f"{number}.{format.lower()}"
        wave, said = read_or_refused(path, odd, caplog)
        assert wave is not None or (str(path) in said and "\n" not in said)
