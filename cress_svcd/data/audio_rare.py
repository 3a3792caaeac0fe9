"""Containers that few write today: how many bytes of samples their headers announce.

libsndfile reads all of them, most to the end of the file, whatever the header says: what is missing
is not missed, and another file behind the first is noise.  Some have no length at all.
"""

import re
import struct
from dataclasses import replace

from cress_svcd.data.audio_chunks import Samples, in_file, parts_end
from cress_svcd.data.audio_streams import RARE_HEAD, SVX_FORMS, Stream
from cress_svcd.data.audio_views import Part, Source

# In its place stands the size of a whole file.
_UNKNOWN = 0
_SDS_PACKET = 127
_MAT4_WIDTHS = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}
_NO_LENGTH = (
    "its format tells no length: if its end is missing, that cannot be seen; WAV and FLAC tell it"
)


def rare_stream(source: Source, start: int) -> Stream | None:
    """The stream that begins at ``start``; None if of another kind, or damaged in its header."""
    head = source.at(start, 512)
    if not RARE_HEAD.match(head) and not (head[:4] == b"FORM" and head[8:12] in SVX_FORMS):
        return None
    try:
        for magic, parse in _PARSERS.items():
            if head.startswith(magic):
                return parse(source, start, head)
        return _ircam(source, start, head)
    except (struct.error, LookupError, ArithmeticError, ValueError):
        return None  # cut or damaged within the header: libsndfile says so


def _stream(source: Source, start: int, at: int, size: int, magic: bytes) -> Stream:
    """Samples from ``at`` on, which libsndfile reads to the end of what it is shown."""

    def header_of(count: int) -> tuple[Part, ...]:
        return ((start, at + count),)

    trusted = size == _UNKNOWN or at + size >= source.size
    stream = in_file(source, start, Samples(at, size, None), magic, header_of, trusted)
    return stream if size else replace(stream, loss=_NO_LENGTH)


def _avr(source: Source, start: int, head: bytes) -> Stream:
    """Of the Atari."""
    stereo, bits = struct.unpack_from(">HH", head, 12)
    (frames,) = struct.unpack_from(">I", head, 26)
    size = frames * (2 if stereo else 1) * (bits // 8)
    return _stream(source, start, start + 128, size, b"2BIT")


def _mpc2k(source: Source, start: int, head: bytes) -> Stream:
    """Of the Akai MPC 2000."""
    (frames,) = struct.unpack_from("<I", head, 30)
    return _stream(source, start, start + 42, 2 * frames * (1 + head[21]), head[:2])


def _wve(source: Source, start: int, head: bytes) -> Stream:
    """Of the Psion Series 3."""
    (frames,) = struct.unpack_from(">I", head, 18)
    return _stream(source, start, start + 32, frames, b"ALawSoundFile**\0")


def _xi(source: Source, start: int, head: bytes) -> Stream:
    """Of FastTracker 2."""
    count, size = struct.unpack_from("<HI", head, 296)
    return _stream(source, start, start + 298 + 40 * max(1, count), size, b"Extended Instrument: ")


def _paf(source: Source, start: int, head: bytes) -> Stream:
    """Of Ensoniq."""
    return _stream(source, start, start + 2048, _UNKNOWN, head[:4])


def _pvf(source: Source, start: int, head: bytes) -> Stream:
    """Of modems."""
    line = re.match(rb"PVF1\n\d+ +\d+ +\d+\n", head)
    if line is None:
        raise ValueError
    return _stream(source, start, start + line.end(), _UNKNOWN, b"PVF1\n")


def _ircam(source: Source, start: int, head: bytes) -> Stream:
    """Of the Berkeley, IRCAM and CARL sound systems."""
    return _stream(source, start, start + 1024, _UNKNOWN, head[:4])


def _svx(source: Source, start: int, head: bytes) -> Stream:
    """Of the Amiga."""
    at = 12
    while source.at(start + at, 4) not in (b"BODY", b""):
        (size,) = struct.unpack(">I", source.at(start + at + 4, 4))
        at += 8 + size + size % 2
    (size,) = struct.unpack(">I", source.at(start + at + 4, 4))
    data = start + at + 8

    def header_of(count: int) -> tuple[Part, ...]:
        return (start, data - 4), struct.pack(">I", min(count, 0xFFFFFFFF)), (data, data + count)

    def size_of(header: bytes) -> int:
        return int(struct.unpack_from(">I", header, 4)[0])

    samples = Samples(data, size, (8, size_of, 2))
    return in_file(source, start, samples, b"FORM", header_of, data + size >= source.size)


def _mat5(source: Source, start: int, head: bytes) -> Stream:
    """Of MATLAB 5: a matrix of the rate, then one of the samples, whose last element they are."""
    order = "<" if head[126:128] == b"IM" else ">"
    (rate_size,) = struct.unpack_from(order + "I", head, 132)
    at = 136 + rate_size + 8
    for _ in range(3):  # flags, shape, name
        kind, size = struct.unpack(order + "II", source.at(start + at, 8))
        short = kind >> 16  # of at most four bytes, which stand in the place of the size
        at += 8 if short else 8 + size + -size % 8
    _, size = struct.unpack(order + "II", source.at(start + at, 8))
    return _stream(source, start, start + at + 8, size, b"MATLAB 5.0 MAT-file")


def _mat4(source: Source, start: int, head: bytes) -> Stream:
    """Of MATLAB 4: a matrix of the rate, then one of the samples."""
    order = ">" if head[2:4] == b"\x03\xe8" else "<"
    kind, _, _, _, letters = struct.unpack_from(order + "5I", head, 0)
    at = 20 + letters + 8
    kind, rows, columns, _, letters = struct.unpack_from(order + "5I", head, at)
    row = rows * _MAT4_WIDTHS[kind % 1000 // 10]
    data = start + at + 20 + letters

    def header_of(count: int) -> tuple[Part, ...]:
        number = struct.pack(order + "I", min(count // row, 0x7FFFFFFF))
        place = start + at + 8
        return (start, place), number, (place + 4, data + count)

    samples = Samples(data, columns * row, None)
    return in_file(source, start, samples, head[:20], header_of)


def _voc(source: Source, start: int, head: bytes) -> Stream:
    """Of the Sound Blaster: a block of samples."""
    at = struct.unpack_from("<H", head, 20)[0]
    before = {1: 2, 9: 12}.get(head[at])
    if before is None:
        raise ValueError
    size = int.from_bytes(head[at + 1 : at + 4], "little") - before
    data = start + at + 4 + before

    def header_of(count: int) -> tuple[Part, ...]:
        number = min(count + before, 0xFFFFFF).to_bytes(3, "little")
        return (start, start + at + 1), number, (start + at + 4, data + count), b"\0"

    stop = data + size
    # Zero ends the blocks; there is none where the file is cut.
    trusted = source.at(stop, 2) == b"\0"
    return in_file(source, start, Samples(data, size, None), head[:20], header_of, trusted)


def _sds(source: Source, start: int, head: bytes) -> Stream:
    """MIDI sample dump: packets of samples of so many bits."""
    bits, *length = head[6], *head[10:13]
    frames = length[0] | length[1] << 7 | length[2] << 14
    in_packet = 120 // -(-bits // 7)
    packets = -(-frames // in_packet)

    def header_of(count: int) -> tuple[Part, ...]:
        # Of a last packet that is not full, libsndfile would give silence.
        total = min(count // _SDS_PACKET * in_packet, (1 << 21) - 1)
        number = bytes([total & 127, total >> 7 & 127, total >> 14 & 127])
        return (start, start + 10), number, (start + 13, start + 21 + count)

    samples = Samples(start + 21, packets * _SDS_PACKET, None)
    stream = in_file(source, start, samples, head[:4], header_of, frames % in_packet == 0)
    announced = packets * _SDS_PACKET
    whole = stream.parts is not None and parts_end(stream.parts) == start + 21 + announced
    return replace(stream, announced_frames=frames, frames=frames if whole and frames else None)


_PARSERS = {
    b"2BIT": _avr,
    b"\x01\x04": _mpc2k,
    b"ALaw": _wve,
    b"Exte": _xi,
    b" paf": _paf,
    b"fap ": _paf,
    b"PVF1": _pvf,
    b"FORM": _svx,
    b"MATL": _mat5,
    b"\0\0\0\0": _mat4,
    b"\0\0\x03\xe8": _mat4,
    b"Crea": _voc,
    b"\xf0\x7e": _sds,
}
