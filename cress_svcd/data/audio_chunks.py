"""Containers of samples that need no decoder: WAV and its kin, AIFF, AU, CAF, NIST.

Their headers say where the samples begin and how many bytes they are.  The second is wrong in many
files: of writers to a pipe, which cannot go back, and of recorders that were stopped.  Here it is
compared with what is there.  Where it is wrong, libsndfile is shown another header.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from cress_svcd.data.audio_streams import (
    SLACK_BYTES,
    W64_HEAD,
    Stream,
    begins_container,
    find_container,
    is_no_sound,
    is_unknown,
    skip_padding,
)
from cress_svcd.data.audio_views import Part, Source

# What may follow the samples, and be cut short itself.
_KNOWN_CHUNKS = (
    b"LIST INFO bext iXML JUNK junk FLLR PAD  cue  smpl inst fact PEAK id3  ID3  afsp levl NAME "
    b"AUTH ANNO COMT MARK APPL CHAN strg info free umid uuid acid plst labl _PMX "
)
_SEARCHED_BYTES = 1 << 30
_LARGEST_RIFF = 0xFFFFFFFF - (1 << 12)
_W64_DATA = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a")


@dataclass(frozen=True)
class Samples:
    """Where the samples begin, and the bytes of them that the header announces.

    ``chunk``: (size of a chunk's header, reader of its size, alignment) of what may follow; None:
    nothing may.
    """

    at: int
    announced: int
    chunk: tuple[int, Callable[[bytes], int], int] | None


def in_file(
    source: Source,
    start: int,
    samples: Samples,
    magic: bytes,
    header: Callable[[int], tuple[Part, ...]],
    trusted: bool = True,
) -> Stream:
    """The stream of ``samples``, whose header ``header(bytes)`` gives for any number of bytes.

    ``trusted``: libsndfile reads it right where the announced size is right.
    """
    at, announced = samples.at, samples.announced
    there = source.size - at
    unknown = is_unknown(announced)
    if not unknown and there - SLACK_BYTES <= announced <= there + SLACK_BYTES:
        # The usual case.  What is missing or left over are the header's own bytes, or padding.
        return Stream(start, source.size, None if trusted else header(min(announced, there)))
    if 0 <= announced < there:
        stop = _after_chunks(source, at + announced, samples.chunk)
        if stop is not None:
            parts = None if trusted or announced == 0 else header(announced)
            return Stream(start, stop, parts)
    stop = source.size
    if unknown and there <= _SEARCHED_BYTES:
        # Two streams of pipes may have been joined.
        stop = find_container(source, magic, at, stop) or stop
    return Stream(
        start,
        stop,
        header(stop - at),
        announced=None if unknown else announced / max(1, stop - at),
    )


def _after_chunks(
    source: Source, at: int, chunk: tuple[int, Callable[[bytes], int], int] | None
) -> int | None:
    """Where the chunks end that begin at ``at``; None if what stands there is sound."""
    at = skip_padding(source, at)
    if at >= source.size or begins_container(source, at):
        return min(at, source.size)
    if chunk is not None:
        # Some writers of CAF fill up to even sizes, though they need not.
        for position in (at + -at % chunk[2], at + at % 2, at):
            stop = _end_of_chunks(source, position, chunk)
            if stop is not None:
                return stop
    return source.size if is_no_sound(source, at, source.size) else None


def _end_of_chunks(
    source: Source, at: int, chunk: tuple[int, Callable[[bytes], int], int]
) -> int | None:
    header_bytes, size_of, alignment = chunk
    while source.size - at >= header_bytes:
        if begins_container(source, at):
            return at
        header = source.at(at, header_bytes)
        size = size_of(header)
        name = header[:4]
        if not all(32 <= byte < 127 for byte in name) or size < 0:
            return None
        if at + header_bytes + size > source.size + 1 and name not in _KNOWN_CHUNKS:
            return None
        at += header_bytes + size
        at += -at % alignment
    return source.size


def riff_stream(source: Source, start: int) -> Stream | None:
    """WAV, of any kind, with sizes of 32 or 64 bits (EBU Tech 3306, section 3)."""
    order = ">" if source.at(start, 4) == b"RIFX" else "<"

    def size_of(header: bytes) -> int:
        return int(struct.unpack_from(order + "I", header, 4)[0])

    at, form, long_size = start + 12, b"", None
    while len(header := source.at(at, 8)) == 8:
        name, size = header[:4], size_of(header)
        if name == b"data":
            break
        if name == b"ds64":
            long_size = int.from_bytes(source.at(at + 16, 8), "little", signed=True)
        elif name == b"fmt ":
            form = header + source.at(at + 8, size + size % 2)
        at += 8 + size + size % 2
    else:
        return None
    if len(form) < 24:
        return None
    if size == 0xFFFFFFFF and long_size is not None:
        size = long_size

    block = max(1, int.from_bytes(form[20:22], "big" if order == ">" else "little"))

    def header_of(count: int) -> tuple[Part, ...]:
        count -= count % block  # of packets, libsndfile decodes parts to what was before them
        stop = at + 8 + count
        if count > _LARGEST_RIFF and order == "<":
            sizes = struct.pack("<QQQI", count + len(form) + 48, count, 0, 0)
            head = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(sizes)) + sizes
            data = b"data\xff\xff\xff\xff"
        else:
            count = min(count, _LARGEST_RIFF)
            head = source.at(start, 4) + struct.pack(order + "I", count + len(form) + 12) + b"WAVE"
            data = b"data" + struct.pack(order + "I", count)
        return head + form + data, (at + 8, stop)

    # RF64 is refused by libsndfile where its size of 64 bits is less than none.
    samples = Samples(at + 8, size, (8, size_of, 2))
    return in_file(source, start, samples, source.at(start, 4), header_of)


def mp3_in_riff(source: Source, start: int) -> int | None:
    """Where MP3 frames begin that stand in a WAV file; None if its samples are of another kind."""
    at = source.at(start, 4096).find(b"fmt ")
    if at == -1 or source.at(start + at + 8, 2) != b"\x55\0":
        return None
    data = source.at(start, 1 << 16).find(b"data", at)
    return None if data == -1 else start + data + 8


def w64_stream(source: Source, start: int) -> Stream | None:
    """Sony Wave64.  libsndfile takes all bytes to the end of the file for samples."""
    if source.at(start, 16) != W64_HEAD:
        return None

    def size_of(header: bytes) -> int:
        return int.from_bytes(header[16:24], "little", signed=True) - 24

    at, block = start + 40, 1
    while len(header := source.at(at, 24)) == 24 and header[:16] != _W64_DATA:
        size = size_of(header)
        if header[:4] == b"fmt ":
            block = max(1, int.from_bytes(source.at(at + 36, 2), "little"))
        if size < 0:
            return None
        at += 24 + size + -size % 8
    if len(header) < 24:
        return None

    def header_of(count: int) -> tuple[Part, ...]:
        count -= count % block
        return (start, at + 16), (count + 24).to_bytes(8, "little"), (at + 24, at + 24 + count)

    samples = Samples(at + 24, size_of(header), (24, size_of, 8))
    trusted = at + 24 + size_of(header) >= source.size
    return in_file(source, start, samples, W64_HEAD, header_of, trusted)


def aiff_stream(source: Source, start: int) -> Stream | None:
    """AIFF and AIFC."""

    def size_of(header: bytes) -> int:
        return int(struct.unpack_from(">I", header, 4)[0])

    at = start + 12
    while len(header := source.at(at, 8)) == 8 and header[:4] != b"SSND":
        at += 8 + size_of(header) + size_of(header) % 2
    skip = source.at(at + 8, 8)
    if len(skip) < 8:
        return None
    # The chunk begins with an offset and a block size.
    before = 8 + int.from_bytes(skip[:4], "big")

    def header_of(count: int) -> tuple[Part, ...]:
        size = min(count + before, 0xFFFFFFFF)
        stop = at + 8 + before + count
        return (start, at + 4), struct.pack(">I", size), (at + 8, stop)

    announced = size_of(header)
    announced = announced if is_unknown(announced) else announced - before
    samples = Samples(at + 8 + before, announced, (8, size_of, 2))
    return _counted(source, in_file(source, start, samples, b"FORM", header_of), samples)


def _counted(source: Source, stream: Stream, samples: Samples) -> Stream:
    """A stream of AIFF whose ``samples`` have a codec of which libsndfile believes the count.

    That is 0 in those of pipes, and stale in others.
    """
    at = samples.at
    place = source.at(stream.start, 1 << 16).find(b"COMM")
    comm = stream.start + place
    codec = source.at(comm + 26, 4)
    if place == -1 or comm > at or codec not in (b"GSM ", b"DWVW"):
        return stream
    announced = int.from_bytes(source.at(comm + 10, 4), "big")
    parts = stream.parts
    if parts is None:
        stop = stream.stop if is_unknown(samples.announced) else at + samples.announced
        parts = ((stream.start, min(stop, stream.stop)),)
    # Of DWVW, samples have no size of their own: they are counted by decoding.
    count = 0x7FFFFFFF if codec == b"DWVW" else max(0, parts_end(parts) - at) // 33 * 160
    if codec == b"GSM " and count - 160 < announced <= count and not stream.parts:
        return replace(stream, announced_frames=announced)
    first, *others = parts
    if not isinstance(first, tuple) or first[1] < comm + 14:
        return stream
    patched = (first[0], comm + 10), count.to_bytes(4, "big"), (comm + 14, first[1])
    return replace(
        stream,
        parts=(*patched, *others),
        announced_frames=announced,
        uncounted=codec == b"DWVW",
        announced=1.0,
    )


def parts_end(parts: tuple[Part, ...]) -> int:
    """Where the last part of a file ends."""
    return max(part[1] for part in parts if isinstance(part, tuple))


def au_stream(source: Source, start: int) -> Stream | None:
    """AU of Sun and NeXT, of either byte order."""
    order = ">" if source.at(start, 4) == b".snd" else "<"
    if len(header := source.at(start, 24)) < 24:
        return None
    offset, announced = struct.unpack_from(order + "II", header, 4)
    at = start + max(offset, 24)

    def header_of(count: int) -> tuple[Part, ...]:
        return header[:4] + struct.pack(order + "Ii", 24, -1) + header[12:], (at, at + count)

    samples = Samples(at, announced, None)
    return in_file(source, start, samples, header[:4], header_of, offset >= 24)


def caf_stream(source: Source, start: int) -> Stream | None:
    """Apple's Core Audio Format."""

    def size_of(header: bytes) -> int:
        return int(struct.unpack_from(">q", header, 4)[0])

    at = start + 8
    while len(header := source.at(at, 12)) == 12 and header[:4] != b"data":
        if size_of(header) < 0:
            return None
        at += 12 + size_of(header)
    if len(header) < 12:
        return None

    def header_of(count: int) -> tuple[Part, ...]:
        # The chunk begins with a count of edits.
        stop = at + 16 + count
        return (start, at + 4), struct.pack(">q", count + 4), (at + 12, stop)

    announced = size_of(header)
    announced = announced if is_unknown(announced) else announced - 4
    samples = Samples(at + 16, announced, (12, size_of, 1))
    # libsndfile takes a header that counts bytes beyond the end for no header.
    trusted = 0 < announced <= source.size - at - 16
    stream = in_file(source, start, samples, b"caff\0\1", header_of, trusted)
    table = source.at(start, 1 << 16).find(b"pakt")
    if table == -1 or table > at - start:
        return stream
    # Packets of which some are missing are counted by a table that is not.
    announced = int.from_bytes(source.at(start + table + 20, 8), "big", signed=True)
    changed = bool(stream.parts) and announced != stream.stop - at - 16
    return replace(stream, uncounted=changed, announced_frames=announced if announced > 0 else None)


def nist_stream(source: Source, start: int) -> Stream | None:
    """NIST SPHERE.  libsndfile reads it to the end of the file, whatever its header counts."""
    header = source.at(start, 1024)
    fields = dict(re.findall(rb"(?m)^(\w+) -(?:i|s\d+) (\d+)", header))
    try:
        block = int(fields[b"channel_count"]) * int(fields[b"sample_n_bytes"])
        announced = int(fields[b"sample_count"]) * block
        at = start + int(header[8:16])
    except (KeyError, ValueError):
        return None

    def header_of(count: int) -> tuple[Part, ...]:
        return ((start, at + count),)

    samples = Samples(at, announced, None)
    return in_file(source, start, samples, b"NIST_1A", header_of, at + announced >= source.size)
