"""FLAC: where its frames are, and how many samples they hold.

The header counts the samples, or not (0), or wrongly: of a stream that was cut, written to a pipe,
or joined with another.  Each frame says which sample it begins with (RFC 9639, section 9.1), so the
last one tells without decoding what came before it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import soundfile

from cress_svcd.data.audio_streams import Stream, begins_container, next_container, skip_id3
from cress_svcd.data.audio_views import Part, Sound, Source

# Larger than any frame of usual sound.
_WINDOW_BYTES = 1 << 16
_PROBES = 6
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_SYNC_OR_HEADER = re.compile(rb"\xff[\xf8\xf9]|fLaC\x00\x00\x00\x22|fLaC\x80\x00\x00\x22|RIFF|OggS")
_LONGEST_FRAME_HEADER = 17


@dataclass(frozen=True)
class _Header:
    """The metadata: STREAMINFO, and where the frames begin."""

    info: bytes
    frames_at: int
    mended: bool = False

    @property
    def block(self) -> int:
        return int.from_bytes(self.info[2:4], "big")

    @property
    def largest_frame(self) -> int:
        return int.from_bytes(self.info[7:10], "big")

    @property
    def rate(self) -> int:
        return int.from_bytes(self.info[10:13], "big") >> 4

    @property
    def channels(self) -> int:
        return (self.info[12] >> 1 & 7) + 1

    @property
    def total(self) -> int:
        return int.from_bytes(self.info[13:18], "big") & (1 << 36) - 1


def flac_header(info: bytes, total: int) -> bytes:
    """A header of nothing but STREAMINFO, with another number of samples.

    What else headers hold, such as a table of places to seek to, may be wrong just as well.
    """
    count = total.to_bytes(5, "big")
    counted = bytes([info[13] & 0xF0 | count[0] & 15]) + count[1:]
    return b"fLaC\x80\0\0\x22" + info[:13] + counted + bytes(16)


def _read_header(source: Source, start: int) -> _Header | None:
    at, info = start + 4, b""
    while len(head := source.at(at, 4)) == 4:
        size = int.from_bytes(head[1:], "big")
        if head[0] & 127 == 0 and size == 34:
            info = source.at(at + 4, 34)
        at += 4 + size
        if head[0] & 128:
            return _by_first_frame(source, _Header(info, at)) if len(info) == 34 else None
    return None


def _by_first_frame(source: Source, header: _Header) -> _Header:
    """The header with the block size that the first frame has, if all have one.

    A wrong one would give all frames wrong numbers, and wrong largest frames hinder seeking.
    """
    head = source.at(header.frames_at, _LONGEST_FRAME_HEADER)
    frame = _parse_frame(head, header)
    fixed = frame is not None and not head[1] & 1 and frame[0] == 0 and frame[1] < 1 << 16
    if frame is None or not fixed or header.info[:2] == header.info[2:4]:
        return header
    block = frame[1].to_bytes(2, "big")
    return _Header(block + block + bytes(6) + header.info[10:], header.frames_at, True)


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc8_of(byte: int) -> int:
    for _ in range(8):
        byte = byte << 1 ^ (0x107 if byte & 128 else 0)
    return byte


_CRC8 = [_crc8_of(byte) for byte in range(256)]


def _parse_frame(head: bytes, header: _Header) -> tuple[int, int] | None:
    """(first sample, samples) of the frame that begins with ``head``; None if it is no frame."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
        return None
    size_code, rate_code, mode = head[2] >> 4, head[2] & 15, head[3] >> 4
    if size_code == 0 or rate_code == 15 or mode > 10 or head[3] & 1:
        return None
    if header.channels != (mode + 1 if mode < 8 else 2):
        return None
    at = 4
    first = head[at]
    more = 0
    while more < 7 and first & 128 >> more:
        more += 1
    if more == 1 or len(head) < at + max(1, more):
        return None
    number = first & (127 >> more)
    for byte in head[at + 1 : at + more]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 63
    at += max(1, more)
    if size_code < 6:
        samples = 192 if size_code == 1 else 576 << size_code - 2
    elif size_code < 8:
        width = size_code - 5
        samples = int.from_bytes(head[at : at + width], "big") + 1
        at += width
    else:
        samples = 256 << size_code - 8
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if len(head) <= at or _crc8(head[:at]) != head[at]:
        return None
    return (number if head[1] & 1 else number * header.block), samples


def first_sample(info: bytes, frame: bytes) -> int:
    """The sample that a frame begins with; 0 if it is no frame."""
    found = _parse_frame(frame, _Header(info, 0))
    return 0 if found is None else found[0]


def _frames_in(data: bytes, header: _Header) -> Iterator[tuple[int, int]]:
    for match in _SYNC.finditer(data):
        frame = _parse_frame(data[match.start() : match.start() + _LONGEST_FRAME_HEADER], header)
        if frame is not None:
            yield frame


def flac_streams(source: Source, start: int) -> list[Stream]:
    """The streams of frames that follow each other: one, if nothing in it is damaged."""
    header = _read_header(source, start)
    if header is None:
        return []
    if (
        not header.mended
        and _seems_whole(source, header)
        and decodes_to(source.path, None, header.total)
    ):
        return [Stream(start, source.size)]
    return _scanned(source, start, header)


def _seems_whole(source: Source, header: _Header) -> bool:
    """Whether the frames at some places of the file rise to the announced number of samples.

    Those of two streams, one behind the other, do not, even if both are of one length.
    """
    window = max(_WINDOW_BYTES, 2 * header.largest_frame)
    tail = max(header.frames_at, source.size - window)
    ends = [first + samples for first, samples in _frames_in(source.at(tail, window), header)]
    followed = next_container(source, tail, source.size) is not None
    if followed or header.total == 0 or header.total not in ends:
        return False
    step = (source.size - header.frames_at) // (_PROBES + 1)
    starts: list[int] = []
    for probe in range(_PROBES):
        at = header.frames_at + probe * step
        found = next(_frames_in(source.at(at, min(window, step)), header), None)
        if found is not None:
            starts.append(found[0])
    return starts[:1] == [0] and starts == sorted(starts) and max(ends) == header.total


@dataclass
class _Run:
    """Frames of which each begins with the sample behind the one before.

    ``at``, ``stop``: bytes; ``first``, ``end``: samples; ``before``: where the last frame begins.
    """

    at: int
    first: int
    before: int
    end: int
    stop: int = 0


def _runs(source: Source, header: _Header) -> tuple[list[_Run], int]:
    """All frames of a stream, and where it ends: another may begin there."""
    stop = source.size
    runs: list[_Run] = []
    # What looks like a frame within one is followed by none that goes on from it.
    alone: _Run | None = None
    for match in _SYNC_OR_HEADER.finditer(source.data, header.frames_at):
        at = match.start()
        if match[0][0] != 0xFF:
            if begins_container(source, at):
                stop = at
                break
            continue
        frame = _parse_frame(source.at(at, _LONGEST_FRAME_HEADER), header)
        if frame is None:
            continue
        first, end = frame[0], sum(frame)
        if runs and first == runs[-1].end:
            runs[-1].before, runs[-1].end = first, end
        elif alone is not None and first == alone.end:
            runs.append(_Run(alone.at, alone.first, first, end))
            alone = None
        elif not runs and first == 0:
            runs.append(_Run(at, 0, 0, end))
        else:
            alone = _Run(at, first, first, end)
    if alone is not None and alone.end == header.total:
        runs.append(alone)
    for run, following in zip(runs, runs[1:]):
        run.stop = following.at
    if runs:
        runs[-1].stop = stop
    return runs, stop


def _scanned(source: Source, start: int, header: _Header) -> list[Stream]:
    """The streams by all their frames."""
    runs, stop = _runs(source, header)
    streams: list[Stream] = []
    there = 0
    for run in runs:
        # The last frame may have been cut.
        parts = _parts(header.info, run.end, run.at, run.stop)
        end = run.end if decodes_to(source.path, parts, run.end) else run.before
        there += max(0, end - run.first)
        if end > run.first:
            parts = _parts(header.info, end, run.at, run.stop)
            streams.append(_from_frame(start, run.stop, parts, run.first, end))
    for index, (stream, following) in enumerate(zip(streams, streams[1:])):
        lost = following.skip - stream.skip - (stream.frames or 0)
        if lost > 0:
            at = (stream.skip + (stream.frames or 0)) / max(1, header.rate)
            loss = f"{lost / max(1, header.rate):.1f} s at {at:.1f} s are missing or damaged"
            streams[index] = replace(stream, loss=loss)
    if not streams:
        return [Stream(start, stop, _parts(header.info, 0, header.frames_at, stop), 0)]
    announced = header.total / max(1, streams[0].frames or 0) if header.total else None
    streams[0] = replace(streams[0], announced=announced)
    streams[-1] = replace(streams[-1], stop=stop)
    return streams


def _parts(info: bytes, total: int, at: int, stop: int) -> tuple[Part, ...]:
    return flac_header(info, total), (at, stop)


def _from_frame(start: int, stop: int, parts: tuple[Part, ...], first: int, end: int) -> Stream:
    """The samples from ``first`` to ``end``, of which the first is that of the first frame."""
    return Stream(start, stop, parts, end - first, skip=first, late=first > 0)


def runs_of(path: str, stream: Stream) -> list[Stream]:
    """The streams of a file that seemed whole and is not; none, if it is no FLAC."""
    if stream.parts is not None:
        return []
    with Source(path) as source:
        start = skip_id3(source, stream.start)
        header = _read_header(source, start) if source.at(start, 4) == b"fLaC" else None
        return [] if header is None else _scanned(source, start, header)


def frames_behind(path: str, stream: Stream) -> Iterator[Stream]:
    """Streams from each frame of a stream on: where one is damaged, another may be read.

    None, if it is no FLAC.
    """
    with Source(path) as source:
        if stream.parts is None:
            header = _read_header(source, skip_id3(source, stream.start))
            if source.at(skip_id3(source, stream.start), 4) != b"fLaC" or header is None:
                return
            stop = stream.stop
        else:
            info, *bodies = stream.parts
            if not isinstance(info, bytes) or info[:4] != b"fLaC" or len(bodies) != 1:
                return
            (body,) = bodies
            assert isinstance(body, tuple)
            header, stop = _Header(info[8:42], body[0]), body[1]
        places: list[tuple[int, int, int]] = []
        for match in _SYNC.finditer(source.data, header.frames_at, stop):
            frame = _parse_frame(source.at(match.start(), _LONGEST_FRAME_HEADER), header)
            if frame is not None:
                places.append((match.start(), *frame))
        last = stream.skip + (stream.frames or header.total)
        begins = {first for _, first, _ in places} | {last}
        for at, first, samples in places:
            if stream.skip < first < last and first + samples in begins:
                yield _from_frame(
                    stream.start, stop, _parts(header.info, last, at, stop), first, last
                )


def decodes_to(path: str, parts: tuple[Part, ...] | None, frames: int) -> bool:
    """Whether the last of so many samples can be decoded."""
    if frames <= 0:
        return False
    try:
        with Sound(path, parts) as sound:
            sound.seek(frames - 1)
            return len(sound.read(1)) == 1
    except soundfile.LibsndfileError:
        return False
