"""Every frame that decodes is read, whatever the header says, and two lengths are said."""

import re
import struct

import numpy as np
import pytest

from cress_svcd.data.audio import AudioSpec, audio_info, read_audio, read_blocks
from cress_svcd.errors import AudioError
from tests.helpers.odd_audio import (
    RATE,
    ape,
    decoded,
    encoded,
    flac_in_ogg,
    id3,
    ogg_pages,
    patched,
    regranuled,
    sweep,
    with_total,
    without_count,
)

FOUR, EIGHT = sweep(1.6), sweep(3.2, seed=1)  # short, for the tests to be quick
LIST = b"LIST\x10\0\0\0INFOabcdefghijkl"
MORE = r"has 3.2 s, which are read, though its header announces 1.\d s$"


def check(path, content, expected, caplog, said=None, tolerance=1e-6):
    """That ``content`` is read as ``expected``, in whole, in blocks and in segments."""
    path.write_bytes(content)
    caplog.clear()
    rate = audio_info(path).sample_rate
    expected = expected.mean(axis=1)
    assert audio_info(path).frames == len(expected)
    whole = read_audio(str(path), sample_rate=rate)
    np.testing.assert_allclose(whole, expected, atol=tolerance)
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 0.7))), whole)
    length = rate // 10
    for start in np.linspace(0, len(whole) - length, 23).astype(int):
        segment = read_audio(AudioSpec(str(path), int(start), length), sample_rate=rate)
        np.testing.assert_allclose(segment, whole[start : start + length], atol=1e-6)
    with pytest.raises(AudioError, match=f"the file at {len(whole)} "):
        read_audio(AudioSpec(str(path), len(whole) - 5, 6))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (said is not None)
    if said is not None:
        assert re.search(rf"^{re.escape(str(path))}: .*{said}", messages[0]), messages


SAMPLES = {
    # format: marker, offset and form of the size, bytes that it counts before the samples
    "WAV": (b"data", 4, "<I", 0),
    "WAVEX": (b"data", 4, "<I", 0),
    "RF64": (b"ds64", 16, "<Q", 0),
    "W64": (b"data\xf3", 16, "<q", 24),
    "AIFF": (b"SSND", 4, ">I", 8),
    "AU": (b".snd", 8, ">I", 0),
    "CAF": (b"data", 4, ">q", 4),
}
SIZES_OF_32_BITS = (0, 1 << 31, 0x7FFFF000, 0x7FFFFFDB, 0x7FFFFFFF, 0xFFFFFFDB, 0xFFFFFFFF)
SIZES_OF_64_BITS = (0, (1 << 64) - 1, (1 << 63) - 1, 0xFFFFFFFF)


class TestSamplesWithoutDecoder:
    @pytest.mark.parametrize("format", SAMPLES)
    def test_sizes_of_writers_that_did_not_know(self, tmp_path, caplog, format):
        marker, offset, form, before = SAMPLES[format]
        content = encoded(FOUR, format, "PCM_16")
        for size in SIZES_OF_32_BITS if form[1] == "I" else SIZES_OF_64_BITS:
            odd = patched(content, marker, offset, form.upper(), size)
            check(tmp_path / f"{size:x}.{format.lower()}", odd, decoded(content), caplog)
        empty = patched(content, marker, offset, form, before)
        check(tmp_path / f"0.{format.lower()}", empty, decoded(content), caplog)

    @pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
    @pytest.mark.parametrize("format", SAMPLES)
    def test_sizes_that_are_stale(self, tmp_path, caplog, format, subtype):
        marker, offset, form, before = SAMPLES[format]
        channels = 2 if subtype == "PCM_24" else 1
        content = encoded(sweep(3.2, channels=channels), format, subtype)
        width = {"PCM_16": 2, "PCM_24": 6, "FLOAT": 4, "ULAW": 1}[subtype]
        stale = [int(1.6 * RATE) * width, int(1.6 * RATE) * width + 1, 5000 * width]
        for size in stale:
            odd = patched(content, marker, offset, form, size + before)
            announced = size / width / RATE
            said = rf"has 3.2 s, which are read, though its header announces {announced:.1f} s$"
            check(tmp_path / f"{size}.{format.lower()}", odd, decoded(content), caplog, said)

    @pytest.mark.parametrize("format", SAMPLES)
    def test_joined_files(self, tmp_path, caplog, format):
        one, two = (encoded(wave, format, "PCM_16") for wave in (FOUR, EIGHT))
        both = np.concatenate([decoded(one), decoded(two)])
        said = r"has 4.8 s, which are read, though its header announces 1.6 s$"
        check(tmp_path / f"a.{format.lower()}", one + two, both, caplog, said)

    @pytest.mark.parametrize("format", ["WAV", "W64", "AIFF", "AU", "CAF"])
    def test_joined_files_of_pipes(self, tmp_path, caplog, format):
        marker, offset, form, _ = SAMPLES[format]
        size = (1 << 8 * struct.calcsize(form)) - 1
        one, two = (encoded(wave, format, "PCM_16") for wave in (FOUR, EIGHT))
        joined = b"".join(patched(x, marker, offset, form.upper(), size) for x in (one, two))
        both = np.concatenate([decoded(one), decoded(two)])
        check(tmp_path / f"a.{format.lower()}", joined, both, caplog)

    def test_what_follows_the_samples_is_no_sound(self, tmp_path, caplog):
        content = encoded(FOUR, "WAV", "PCM_16")
        odd = encoded(FOUR[:-1], "WAV", "PCM_U8")  # and no byte of padding
        for name, behind in {
            "list": LIST,
            "cut list": b"LIST\xff\xff\0\0INFO",
            "tag": b"TAG" + bytes(125),
            "zeros": bytes(3000),
            "text": b"<?xml version='1.0'?> recorded by somebody, 2026 " * 9,
        }.items():
            check(tmp_path / f"{name}.wav", content + behind, decoded(content), caplog)
            check(tmp_path / f"odd {name}.wav", odd + behind, decoded(odd), caplog)
        w64 = encoded(FOUR, "W64", "PCM_16")
        chunk = b"junk\xf3\xac\xd3\x11\x8c\xd1\0\xc0\x4f\x8e\xdb\x8a" + struct.pack("<q", 424)
        check(tmp_path / "a.w64", w64 + chunk + bytes(range(200)) * 2, decoded(w64), caplog)

    def test_joined_behind_other_chunks(self, tmp_path, caplog):
        one, two = encoded(FOUR, "WAV", "PCM_16"), encoded(EIGHT, "AIFF", "PCM_16")
        both = np.concatenate([decoded(one), decoded(two)])
        said = "has 4.8 s, which are read, though its header announces 1.6 s$"
        check(tmp_path / "a.wav", one + LIST + two, both, caplog, said)

    def test_an_empty_one_stays_empty(self, tmp_path):
        (tmp_path / "a.wav").write_bytes(encoded(FOUR[:0], "WAV", "PCM_16") + LIST)
        with pytest.raises(AudioError, match="a.wav: holds no samples"):
            audio_info(tmp_path / "a.wav")

    @pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32"])
    def test_compressed_samples(self, tmp_path, caplog, subtype):
        content = encoded(EIGHT, "WAV", subtype)
        whole = decoded(content)
        at = content.index(b"data") + 8
        unknown = patched(content, b"data", 4, "<I", 0x7FFFFFDB)
        (tmp_path / "a.wav").write_bytes(unknown)
        frames = audio_info(tmp_path / "a.wav").frames
        assert 0 <= frames - len(whole) < 1000
        np.testing.assert_array_equal(read_audio(f"{tmp_path}/a.wav:0:40000"), whole[:40000, 0])
        cut = content[: at + (len(content) - at) // 2]
        (tmp_path / "b.wav").write_bytes(cut)
        frames = audio_info(tmp_path / "b.wav").frames
        assert len(read_audio(f"{tmp_path}/b.wav")) == frames
        assert 1.5 < frames / RATE < 1.7
        assert re.search(r"b.wav: has 1.\d s of the 3.\d s", caplog.text)

    def test_more_than_4_gib(self, tmp_path):
        content = encoded(FOUR, "WAV", "PCM_16")
        path = tmp_path / "a.wav"
        with path.open("wb") as file:
            file.write(patched(content, b"data", 4, "<I", len(content) - 44))
            file.seek(44 + 5_000_000_000)
            file.write(FOUR[:1000].tobytes())  # where the file has a hole before
        assert audio_info(path).frames == 2_500_002_000
        part = read_audio(AudioSpec(str(path), 2_500_000_000 - 100, 2100))
        np.testing.assert_array_equal(part[:100], 0)
        assert np.abs(part[100:]).max() > 0.1
        np.testing.assert_array_equal(read_audio(f"{path}:0:1000"), decoded(content)[:1000, 0])

    def test_nothing_is_allocated_because_a_header_says_so(self, tmp_path):
        for size in (0x7FFFFFF0, 0xF0000000):
            path = tmp_path / f"{size}.wav"
            path.write_bytes(patched(encoded(FOUR, "WAV"), b"data", 4, "<I", size))
            assert len(read_audio(str(path))) == len(FOUR)

    def test_apple_lossless(self, tmp_path, caplog):
        content = encoded(EIGHT, "CAF", "ALAC_16")
        whole = decoded(content)
        for size in (-1, 0):
            odd = patched(content, b"data", 4, ">q", size)
            check(tmp_path / f"{size}.caf", odd, whole, caplog)
        (tmp_path / "a.caf").write_bytes(content[: len(content) // 2])
        frames = audio_info(tmp_path / "a.caf").frames
        assert 0.3 < frames / len(whole) < 0.6
        np.testing.assert_array_equal(read_audio(f"{tmp_path}/a.caf"), whole[:frames, 0])
        assert "a.caf: has 1." in caplog.text

    def test_nist(self, tmp_path, caplog):
        content = encoded(EIGHT, "NIST", "PCM_16")
        for count, said in (
            (25_600, MORE),
            (102_400, "has 3.2 s of the 6.4 s that its"),
            (0, None),
        ):
            odd = content.replace(b"-i 51200\n", f"-i {count}\n".encode())
            odd = odd[:1024].ljust(1024, b"\0") if len(odd) < 1024 else odd
            odd = odd[: odd.index(b"end_head") + 9].ljust(1024, b"\0") + content[1024:]
            check(tmp_path / f"{count}.sph", odd, decoded(content), caplog, said)


class TestFlac:
    WHOLE = encoded(EIGHT, "FLAC", "PCM_16")

    @pytest.mark.parametrize(
        "total, said",
        [
            (0, None),
            (25_600, MORE),
            (102_400, "has 3.2 s of the 6.4 s that its header announces$"),
            ((1 << 36) - 1, "has 3.2 s of the 4294967.3 s"),
        ],
    )
    def test_a_wrong_number_of_samples(self, tmp_path, caplog, total, said):
        odd = with_total(self.WHOLE, total)
        check(tmp_path / "a.flac", odd, decoded(self.WHOLE), caplog, said)
        check(tmp_path / "b.flac", id3(3000) + odd, decoded(self.WHOLE), caplog, said)

    @pytest.mark.parametrize("total", [0, len(EIGHT)])
    def test_what_is_cut(self, tmp_path, caplog, total):
        whole = decoded(self.WHOLE)
        for part in (0.2, 0.5, 0.999):
            odd = with_total(self.WHOLE, total)[: int(part * len(self.WHOLE))]
            blocks = int(part * len(whole)) // 4096
            path = tmp_path / f"{part}.flac"
            path.write_bytes(odd)
            frames = audio_info(path).frames
            assert frames % 4096 == 0 and abs(frames // 4096 - blocks) <= 1
            said = f"has {frames / RATE:.1f} s of the 3.2 s that its header announces$"
            path.unlink()
            check(path, odd, whole[:frames], caplog, said if total else None)

    def test_what_follows_is_no_sound(self, tmp_path, caplog):
        for name, behind in {"tag": b"TAG" + bytes(125), "zeros": bytes(100_000)}.items():
            for total in (0, len(EIGHT)):
                odd = with_total(self.WHOLE, total) + behind
                check(tmp_path / f"{name}{total}.flac", odd, decoded(self.WHOLE), caplog)

    @pytest.mark.parametrize("total", [0, len(EIGHT)])
    def test_joined(self, tmp_path, caplog, total):
        one = with_total(self.WHOLE, total)
        stereo = encoded(sweep(1.6, channels=2, seed=5), "FLAC", "PCM_24")
        for name, two in {"itself": self.WHOLE, "stereo": stereo}.items():
            mono = decoded(two).mean(axis=1, keepdims=True)
            both = np.concatenate([decoded(self.WHOLE), mono])
            said = rf"has {len(both) / RATE:.1f} s, which are read, though .* 3.2 s$"
            check(
                tmp_path / f"{name}.flac",
                one + with_total(two, total and len(mono)),
                both,
                caplog,
                said if total else None,
            )

    @pytest.mark.parametrize("total", [0, len(EIGHT)])
    @pytest.mark.parametrize("width", [1, 9000])
    def test_damage_in_the_middle(self, tmp_path, caplog, total, width):
        at = len(self.WHOLE) // 2
        damaged = bytearray(with_total(self.WHOLE, total))
        damaged[at : at + width] = bytes(255 - byte for byte in damaged[at : at + width])
        path = tmp_path / "a.flac"
        path.write_bytes(damaged)
        whole = decoded(self.WHOLE)[:, 0]
        blocks = np.concatenate(list(read_blocks(path, 0.3)))
        lost = len(whole) - len(blocks)
        assert lost == (4096 if width == 1 else 8192)
        start = next(k for k in range(0, len(whole), 4096) if blocks[k + 9] != whole[k + 9])
        expected = np.concatenate([whole[:start], whole[start + lost :]])
        np.testing.assert_array_equal(blocks, expected)
        assert audio_info(path).frames == len(blocks)
        np.testing.assert_array_equal(read_audio(str(path)), blocks)
        (message,) = caplog.messages
        assert f"a.flac: has {len(blocks) / RATE:.1f} s" in message
        assert re.search(rf"; {lost / RATE:.1f} s (at|from) {start / RATE:.1f} s ", message)
        assert ("of the 3.2 s that its header announces" in message) == bool(total)
        for place in (0, start - 700, start - 5, start, len(blocks) - 700):
            segment = read_audio(f"{path}:{place}:700")
            np.testing.assert_array_equal(segment, blocks[place : place + 700])
        with pytest.raises(AudioError, match=r"a.flac:48000:4000: .*the file at \d+ .*has 2"):
            read_audio(f"{path}:48000:4000")

    def test_damage_in_many_places(self, tmp_path, caplog):
        damaged = bytearray(self.WHOLE)
        step = len(damaged) // 13
        for at in range(3 * step, len(damaged) - step, 3 * step):
            damaged[at] ^= 0x55
        path = tmp_path / "a.flac"
        path.write_bytes(damaged)
        blocks = np.concatenate(list(read_blocks(path, 0.3)))
        assert len(blocks) == len(EIGHT) - 3 * 4096
        np.testing.assert_array_equal(read_audio(str(path)), blocks)
        np.testing.assert_array_equal(blocks[-9000:], decoded(self.WHOLE)[-9000:, 0])
        (message,) = caplog.messages
        assert re.search(r"has 2.4 s of the 3.2 s .*; 0.8 s in 3 places from 0.\d s on", message)

    def test_frames_that_are_missing(self, tmp_path, caplog):
        frames = [match.start() for match in re.finditer(rb"\xff\xf8", self.WHOLE)]
        third, fifth = (
            next(at for at in frames if at > 90 and self.WHOLE[at + 4] == number)
            for number in (3, 5)
        )
        path = tmp_path / "a.flac"
        path.write_bytes(self.WHOLE[:third] + self.WHOLE[fifth:])
        whole = decoded(self.WHOLE)[:, 0]
        segment = read_audio(f"{path}:30000:700")
        np.testing.assert_array_equal(segment, whole[30_000:30_700])
        expected = whole.copy()
        expected[3 * 4096 : 5 * 4096] = 0
        np.testing.assert_array_equal(read_audio(str(path)), expected)
        np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 0.7))), expected)
        (message,) = caplog.messages
        assert message.endswith(
            "a.flac: 0.5 s at 0.8 s are missing or damaged: silence stands there"
        )

    @pytest.mark.parametrize(
        "sizes", [b"\x00\x10\x10\x00", b"\x10\x00\x00\x80", b"\x10\x98\x10\x00"]
    )
    def test_block_sizes_that_are_wrong(self, tmp_path, caplog, sizes):
        odd = self.WHOLE[:8] + sizes + b"\xff" * 6 + self.WHOLE[18:]
        check(tmp_path / "a.flac", odd, decoded(self.WHOLE), caplog)

    def test_begun_in_the_middle(self, tmp_path, caplog):
        frames = [match.start() for match in re.finditer(rb"\xff\xf8", self.WHOLE)]
        frame = next(at for at in frames if at > 90 and self.WHOLE[at + 4] == 3)
        head = self.WHOLE[: next(at for at in frames if self.WHOLE[at + 4] == 0)]
        odd = head + self.WHOLE[frame:]
        said = "has 2.4 s of the 3.2 s that its header announces$"
        check(tmp_path / "a.flac", odd, decoded(self.WHOLE)[3 * 4096 :], caplog, said)

    def test_in_ogg(self, tmp_path, caplog):
        pages = flac_in_ogg(self.WHOLE)
        whole = decoded(self.WHOLE)
        check(tmp_path / "a.oga", b"".join(pages), whole, caplog)
        chain = b"".join(pages + flac_in_ogg(encoded(FOUR, "FLAC", "PCM_16"), serial=9))
        both = np.concatenate([whole, decoded(encoded(FOUR, "FLAC", "PCM_16"))])
        check(tmp_path / "b.oga", chain, both, caplog, "has 4.8 s, which are read, though")
        cut = b"".join(pages[:8])[:-100]
        said = "has 1.3 s of the 3.2 s that its header announces; its last Ogg page is cut"
        check(tmp_path / "c.oga", cut, whole[: 5 * 4096], caplog, said)
        late = b"".join(pages[:2] + pages[4:])
        check(tmp_path / "d.oga", late, whole[2 * 4096 :], caplog, "has 2.7 s of the 3.2 s")
        gap = b"".join(pages[:6] + pages[7:])
        said = "has 2.9 s of the 3.2 s that its header announces; an Ogg page is missing or damaged"
        both = np.concatenate([whole[: 4 * 4096], whole[5 * 4096 :]])
        check(tmp_path / "e.oga", gap, both, caplog, said)


def vorbis_or_opus(subtype):
    return encoded(FOUR, "OGG", subtype), encoded(EIGHT, "OGG", subtype)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
class TestOgg:
    def test_chains(self, tmp_path, caplog, subtype):
        one, two = vorbis_or_opus(subtype)
        for name, first, second in (("a", one, two), ("b", two, one), ("c", one, one)):
            both = np.concatenate([decoded(first), decoded(second)])
            said = rf"has {len(both) / RATE:.1f} s, which are read, though its header"
            check(tmp_path / f"{name}.ogg", first + second, both, caplog, said)

    def test_a_chain_of_two_rates(self, tmp_path, caplog, subtype):
        one, _ = vorbis_or_opus(subtype)
        other = encoded(sweep(1.2, rate=8000), "OGG", subtype, rate=8000)
        said = r"has 1.6 s; the 1.2 s behind it are not read, for their rate is 8000 Hz, not 16000"
        check(tmp_path / "a.ogg", one + other, decoded(one), caplog, said)

    def test_a_cut_page(self, tmp_path, caplog, subtype):
        _, whole = vorbis_or_opus(subtype)
        start, stop, _ = ogg_pages(whole)[-2]
        expected = decoded(whole[:start])
        said = rf"has {len(expected) / RATE:.1f} s; its last Ogg page is cut"
        check(tmp_path / "a.ogg", whole[: stop - 50], expected, caplog, said)
        check(tmp_path / "b.ogg", whole[:start], expected, caplog)

    def test_a_missing_page(self, tmp_path, caplog, subtype):
        _, whole = vorbis_or_opus(subtype)
        pages = ogg_pages(whole)
        start, stop, _ = pages[-3]
        header = pages[1 if subtype == "OPUS" else 1][1]
        before = decoded(whole[:start])
        behind = decoded(whole[:header] + whole[stop:])
        both = np.concatenate([before, behind])
        damaged = bytearray(whole)
        damaged[start + 100] ^= 0x55
        for name, odd in (("a", whole[:start] + whole[stop:]), ("b", bytes(damaged))):
            said = rf"has {len(both) / RATE:.1f} s.*; an Ogg page is missing or damaged"
            check(tmp_path / f"{name}.ogg", odd, both, caplog, said)

    def test_one_that_begins_in_the_middle(self, tmp_path, caplog, subtype):
        _, whole = vorbis_or_opus(subtype)
        pages = ogg_pages(whole)
        odd = whole[: pages[1][1]] + whole[pages[3][0] :]
        check(tmp_path / "a.ogg", odd, decoded(odd), caplog)

    def test_what_is_around_it(self, tmp_path, caplog, subtype):
        _, whole = vorbis_or_opus(subtype)
        expected = decoded(whole)
        for name, odd in {
            "behind": whole + bytes(300),
            "before": bytes(300) + whole,
            "tag": id3(2000) + whole,
        }.items():
            check(tmp_path / f"{name}.ogg", odd, expected, caplog)

    def test_a_granule_position_that_cannot_be(self, tmp_path, caplog, subtype):
        _, whole = vorbis_or_opus(subtype)
        start, stop, _ = ogg_pages(whole)[-1]
        odd = regranuled(whole, start, stop, 10**10)
        path = tmp_path / "a.ogg"
        path.write_bytes(odd)
        frames = audio_info(path).frames
        assert 0 <= frames - len(EIGHT) < 1000
        np.testing.assert_allclose(read_audio(str(path))[: len(EIGHT)], decoded(whole)[:, 0])
        assert re.search(r"a.ogg: has 3.2 s of the \d+.\d s that its header", caplog.text)


CONSTANT = {"bitrate_mode": "CONSTANT", "compression_level": 0.7}
VARIABLE = {"bitrate_mode": "VARIABLE", "compression_level": 0.3}


def mp3(wave, options, rate=RATE):
    return encoded(wave, "MP3", "MPEG_LAYER_III", rate, **options)


class TestMp3:
    @pytest.fixture(params=[CONSTANT, VARIABLE], ids=["constant", "variable"])
    def files(self, request):
        return mp3(FOUR, request.param), mp3(EIGHT, request.param)

    @pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_without_a_count(self, tmp_path, caplog, rate, channels):
        wave = sweep(2, rate, channels)
        quiet = np.concatenate([np.zeros_like(wave), wave])
        for options in (CONSTANT, VARIABLE):
            whole = mp3(quiet, options, rate)
            counted = decoded(whole)
            # With the count, libmpg123 drops the samples that encoder and decoder put in front.
            path = tmp_path / f"{options['bitrate_mode']}.mp3"
            path.write_bytes(without_count(whole))
            delayed = read_audio(str(path), sample_rate=rate)
            assert 0 < len(delayed) - len(counted) < 4000
            np.testing.assert_allclose(
                delayed[1105 : 1105 + len(counted)], counted.mean(axis=1), atol=1e-6
            )
            content = path.read_bytes()
            path.unlink()
            check(path, content, delayed[:, None], caplog)

    def test_joined(self, tmp_path, caplog, files):
        one, two = files
        both = np.concatenate([decoded(one), decoded(two)])
        said = "has 4.8 s, which are read, though its header announces 1.6 s$"
        check(tmp_path / "a.mp3", one + two, both, caplog, said)
        tagged = id3(300) + one + b"TAG" + bytes(125) + id3(5000) + two + ape(1000)
        check(tmp_path / "b.mp3", tagged, both, caplog, said)
        check(tmp_path / "c.mp3", one + one, np.concatenate([decoded(one)] * 2), caplog, "has 3.2")

    def test_joined_with_another_kind(self, tmp_path, caplog, files):
        one, _ = files
        stereo = mp3(sweep(1.6, channels=2), CONSTANT)
        mono = decoded(stereo).mean(axis=1, keepdims=True)
        both = np.concatenate([decoded(one), mono])
        check(tmp_path / "a.mp3", one + stereo, both, caplog, "has 3.2 s, which are read")
        other = mp3(sweep(1.2, 8_000), CONSTANT, 8_000)
        said = "the 1.2 s behind it are not read, for their rate is 8000 Hz, not 16000 Hz"
        check(tmp_path / "b.mp3", one + other, decoded(one), caplog, said)

    def test_what_is_around_it(self, tmp_path, caplog, files):
        _, whole = files
        bare = without_count(whole)
        (tmp_path / "bare.mp3").write_bytes(bare)
        delayed = read_audio(f"{tmp_path}/bare.mp3")[:, None]
        for name, (before, behind) in {
            "tag": (id3(100_000), b""),
            "old tag": (b"", b"TAG" + bytes(125)),
            "ape": (b"", ape(3000)),
            "zeros": (b"", bytes(200)),
            "zeros before": (bytes(700), b""),
            "all": (id3(20) + id3(4000), ape(500) + b"TAG" + bytes(125)),
        }.items():
            check(tmp_path / f"{name}.mp3", before + bare + behind, delayed, caplog)
            if name != "zeros before":
                odd = before + whole + behind
                check(tmp_path / f"counted {name}.mp3", odd, decoded(whole), caplog)

    def test_begun_in_the_middle(self, tmp_path, caplog, files):
        _, whole = files
        bare = without_count(whole)
        (tmp_path / "bare.mp3").write_bytes(bare)
        delayed = read_audio(f"{tmp_path}/bare.mp3")
        for cut in (1001, 2500):
            path = tmp_path / f"{cut}.mp3"
            path.write_bytes(bare[cut:])
            found = read_audio(str(path))
            late = len(delayed) - len(found)
            assert 0 < late < 0.7 * RATE and late % 576 == 0
            np.testing.assert_allclose(found[4000:], delayed[late + 4000 :], atol=1e-6)
            path.unlink()
            check(path, bare[cut:], found[:, None], caplog)

    def test_stopped_within_a_frame(self, tmp_path, caplog, files):
        _, whole = files
        for name, odd in (
            ("bare", without_count(whole)[:-50]),
            ("counted", whole[: len(whole) // 2 - 40]),
        ):
            path = tmp_path / f"{name}.mp3"
            path.write_bytes(odd)
            found = read_audio(str(path))
            path.unlink()
            if name == "counted":
                np.testing.assert_allclose(found[:20_000], decoded(whole)[:20_000, 0], atol=1e-6)
                said = r"has 1.\d s of the 3.\d s that its header announces; its last frame is cut"
            else:
                said = r"has 3.\d s; its last frame is cut"
            check(path, odd, found[:, None], caplog, said)

    @pytest.mark.parametrize("count", [0, 10, 40_000_000])
    def test_a_wrong_count(self, tmp_path, caplog, count):
        whole = mp3(EIGHT, CONSTANT)
        odd = patched(whole, b"Info", 8, ">I", count)
        path = tmp_path / "a.mp3"
        path.write_bytes(odd)
        found = read_audio(str(path))
        path.unlink()
        np.testing.assert_allclose(found[: len(EIGHT)], decoded(whole)[:, 0], atol=1e-6)
        assert len(found) - len(EIGHT) < 1200
        said = (
            "has 3.2 s, which are" if count < 11 else r"has 3.2 s of the \d+.\d s that its header"
        )
        check(path, odd, found[:, None], caplog, said)

    def test_damage_in_the_middle(self, tmp_path, caplog):
        whole = mp3(EIGHT, CONSTANT)
        at = len(whole) // 2
        odd = whole[:at] + np.random.default_rng(0).bytes(3000) + whole[at + 3000 :]
        path = tmp_path / "a.mp3"
        path.write_bytes(odd)
        found = read_audio(str(path))
        path.unlink()
        assert 0.8 < len(found) / len(EIGHT) < 0.95
        tail = decoded(whole)[-8_000:, 0]
        errors = [
            np.abs(found[k : k + 8_000] - tail).max()
            for k in range(len(found) - 12_000, len(found) - 8_000)
        ]
        assert min(errors) < 1e-5
        check(
            path, odd, found[:, None], caplog, r"has 2.\d s of the 3.\d s .*bytes in it are no MP3"
        )

    def test_of_layer_2(self, tmp_path, caplog):
        """Silence: libsndfile does not write this layer."""
        sizes = [417 + (number % 3 == 0) for number in range(60)]
        heads = (bytes([0xFF, 0xFD, 0x80 | (size - 417) << 1, 0xC0]) for size in sizes)
        bare = b"".join(head + bytes(size - 4) for head, size in zip(heads, sizes))
        silence = np.zeros((60 * 1152, 1), np.float32)
        for name, odd in {"a": bare, "b": id3(50_000) + bare, "c": bare + bytes(300)}.items():
            check(tmp_path / f"{name}.mp2", odd, silence, caplog)
        check(tmp_path / "d.mp2", bare[:-30], silence[:-1152], caplog, "its last frame is cut")

    def test_in_wav(self, tmp_path, caplog):
        bare = without_count(mp3(EIGHT, CONSTANT))
        (tmp_path / "bare.mp3").write_bytes(bare)
        delayed = read_audio(f"{tmp_path}/bare.mp3")[:, None]
        form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8000, 1, 0, 12, 1, 2, 288, 1, 0)
        for size in (len(bare), 0, 0xFFFFFFFF):
            head = b"WAVEfmt " + struct.pack("<I", len(form)) + form
            head += b"data" + struct.pack("<I", size)
            odd = b"RIFF" + struct.pack("<I", 0) + head + bare
            check(tmp_path / f"{size}.wav", odd, delayed, caplog)


@pytest.mark.parametrize("format", [*SAMPLES, "FLAC", "OGG", "MP3"])
def test_zero_bytes_around_it(tmp_path, caplog, format):
    """Of a recorder that had allotted a file, or of blocks that were joined."""
    whole = encoded(FOUR, format)
    name = format.lower()
    both = np.concatenate([decoded(whole), decoded(whole)])
    said = "has 3.2 s, which are read, though its header announces 1.6 s$"
    for count in (3, 5000):
        zeros = bytes(count)
        # What stands behind zeros is not looked for where it may be sound that is silent.
        check(tmp_path / f"{count}.{name}", zeros + whole + zeros, decoded(whole), caplog)
        check(tmp_path / f"{count} tag.{name}", zeros + id3(90) + whole, decoded(whole), caplog)
        check(tmp_path / f"{count} two.{name}", whole + zeros + whole, both, caplog, said)


def test_probing_decodes_nothing_where_header_and_structure_agree(tmp_path, monkeypatch):
    """A corpus may have 200,000 files."""
    from cress_svcd.data import audio_decoding

    monkeypatch.setattr(audio_decoding, "_read", None)
    monkeypatch.setattr(audio_decoding, "count_samples", None)
    for format in (*SAMPLES, "FLAC", "OGG", "MP3"):
        path = tmp_path / f"a.{format.lower()}"
        path.write_bytes(encoded(FOUR, format))
        assert audio_info(path).frames == len(FOUR)


def test_what_has_no_header_is_not_taken_for_sound(tmp_path):
    """libsndfile takes it for samples, by its name."""
    (tmp_path / "notes.au").write_text("these are my notes\n" * 99)
    with pytest.raises(AudioError, match="notes.au: is not audio .*no header"):
        audio_info(tmp_path / "notes.au")


def test_a_file_that_changes_is_examined_again(tmp_path, caplog):
    path = tmp_path / "a.flac"
    for wave in (FOUR, EIGHT):
        path.write_bytes(with_total(encoded(wave, "FLAC", "PCM_16"), 10_000))
        assert audio_info(path).frames == audio_info(path).frames == len(wave)
    assert len(caplog.records) == 2


FRONTS = {
    "tag, too long": id3(100_000)[:200],
    "tag, too short": id3(100) + bytes(3000),
    "tag, no size": b"ID3\3\0\0\xff\xff\xff\xff" + bytes(40),
    "head of HTTP": b"HTTP/1.1 200 OK\r\nContent-Type: audio/x\r\n\r\n",
    "line": b"\r\n",
    "mark": b"\xef\xbb\xbf",
}


@pytest.mark.parametrize("front", list(FRONTS))
@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "AIFF", "MP3"])
def test_what_stands_in_front_and_is_no_tag_loses_no_sound(tmp_path, caplog, format, front):
    whole = encoded(FOUR, format)
    check(tmp_path / f"a.{format.lower()}", FRONTS[front] + whole, decoded(whole), caplog)


@pytest.mark.parametrize(
    "first, other", [("MP3", "WAV"), ("OGG", "FLAC"), ("WAV", "OGG"), ("FLAC", "OGG")]
)
def test_files_of_two_formats_that_were_joined_are_both_read(tmp_path, caplog, first, other):
    one, two = encoded(FOUR, first), encoded(EIGHT, other)
    expected = np.concatenate([decoded(one), decoded(two)])
    said = r"has 4.8 s, which are read, though its header announces 1.6 s$"
    check(tmp_path / f"a.{first.lower()}", one + two, expected, caplog, said)
