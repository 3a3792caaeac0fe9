"""Files of audio whose headers do not know, or misstate, their length."""

import io
import re
import struct

import numpy as np
import soundfile

from cress_svcd.data.audio_ogg import ogg_crc

RATE = 16_000


def sweep(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A sweep with noise, shape (frames, channels), so that a shift of one sample is seen."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal((len(time), channels))
    tone = 0.3 * np.sin(2 * np.pi * (150 + 60 * time) * time)
    return (tone[:, None] + 0.02 * noise).astype(np.float32)


def encoded(wave: np.ndarray, format: str, subtype: str | None = None, rate: int = RATE, **options):
    """The bytes of a file of ``wave``; in blocks, as long arrays crash libsndfile's Vorbis."""
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate, wave.shape[1], subtype=subtype, format=format, **options
    ) as sound:
        for start in range(0, len(wave), rate):
            sound.write(wave[start : start + rate])
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """All samples (frames, channels) of a file that libsndfile reads right."""
    return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]


def patched(content: bytes, marker: bytes, offset: int, form: str, value: int) -> bytes:
    """Another number at ``offset`` behind the first ``marker``."""
    result = bytearray(content)
    struct.pack_into(form, result, content.index(marker) + offset, value)
    return bytes(result)


def with_total(flac: bytes, total: int) -> bytes:
    """FLAC with another number of samples in its header."""
    count = total.to_bytes(5, "big")
    return flac[:21] + bytes([flac[21] & 0xF0 | count[0]]) + count[1:] + flac[26:]


def without_count(mp3: bytes) -> bytes:
    """MP3 without its first frame, which holds no sound but the number of frames."""
    head = mp3[:2]
    second = re.compile(re.escape(head) + rb"[^\xff]").search(mp3, 160)
    return mp3[second.start() :]


def id3(size: int) -> bytes:
    sizes = bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
    return b"ID3\x03\0\0" + sizes + bytes(size)


def ape(size: int) -> bytes:
    """An APE tag with header and footer."""
    head = b"APETAGEX" + struct.pack("<IIII", 2000, size, 1, 0xA0000000) + bytes(8)
    foot = b"APETAGEX" + struct.pack("<IIII", 2000, size, 1, 0x80000000) + bytes(8)
    return head + bytes(size - 32) + foot


def ogg_pages(content: bytes) -> list[tuple[int, int, int]]:
    """(start, stop, granule position) of the pages of a sound Ogg file."""
    pages, at = [], 0
    while at < len(content):
        segments = content[at + 26]
        stop = at + 27 + segments + sum(content[at + 27 : at + 27 + segments])
        pages.append((at, stop, struct.unpack_from("<q", content, at + 6)[0]))
        at = stop
    return pages


def ogg_page(serial: int, number: int, flags: int, granule: int, packet: bytes) -> bytes:
    """A page of one packet."""
    sizes = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
    head = b"OggS\0" + bytes([flags]) + struct.pack("<qII", granule, serial, number)
    rest = bytes([len(sizes)]) + sizes + packet
    crc = ogg_crc(head + bytes(4) + rest)
    return head + struct.pack("<I", crc) + rest


def regranuled(content: bytes, start: int, stop: int, granule: int) -> bytes:
    """Ogg with another granule position, and its checksum, in one page."""
    page = bytearray(content[start:stop])
    struct.pack_into("<q", page, 6, granule)
    page[22:26] = bytes(4)
    struct.pack_into("<I", page, 22, ogg_crc(bytes(page)))
    return content[:start] + bytes(page) + content[stop:]


def flac_in_ogg(flac: bytes, serial: int = 7) -> list[bytes]:
    """The pages of FLAC, as libsndfile writes it, in Ogg."""
    at = 4
    while not flac[at] & 128:
        at += 4 + int.from_bytes(flac[at + 1 : at + 4], "big")
    at += 4 + int.from_bytes(flac[at + 1 : at + 4], "big")
    block = int.from_bytes(flac[8:10], "big")
    total = int.from_bytes(flac[21:26], "big") & (1 << 36) - 1
    places = []
    for match in re.finditer(rb"\xff\xf8", flac):
        number = flac[match.start() + 4]
        if number == len(places) < 128 and match.start() >= at:
            places.append(match.start())
    first = b"\x7fFLAC\1\0\0\1fLaC\0\0\0\x22" + flac[8:42]
    comment = b"\x84\0\0\x0c" + struct.pack("<I", 4) + b"test" + struct.pack("<I", 0)
    pages = [ogg_page(serial, 0, 2, 0, first), ogg_page(serial, 1, 0, 0, comment)]
    for number, (start, stop) in enumerate(zip(places, [*places[1:], len(flac)])):
        granule = min((number + 1) * block, total)
        flags = 4 if granule == total else 0
        pages.append(ogg_page(serial, 2 + number, flags, granule, flac[start:stop]))
    return pages
