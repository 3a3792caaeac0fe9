"""Ogg: the streams in its pages (RFC 3533), which libsndfile reads but the first of.

A file may hold several, one behind the other, as those of radio stations and joined files do.
Where pages are missing or damaged, what stands before and behind is read as two streams.
"""

import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cress_svcd.data.audio_flac import decodes_to, first_sample, flac_header
from cress_svcd.data.audio_streams import Stream, begins_container
from cress_svcd.data.audio_views import Part, Source

_HEADER_BYTES = 27
_CONTINUED, _FIRST = 1, 2
_VORBIS, _OPUS, _FLAC = b"\x01vorbis", b"OpusHead", b"\x7fFLAC"
_CODECS = (_VORBIS, _OPUS, _FLAC)
_LOST = "an Ogg page is missing or damaged"
_ALL = 1 << 62
# Samples of a packet at 48 kHz.
_OPUS_LONGEST_PACKET = 5_760
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Page:
    start: int
    stop: int
    body: int
    flags: int
    granule: int
    serial: int
    number: int
    packets: int


def ogg_crc(page: bytes) -> int:
    """Checksum of a page whose own checksum is set to 0.

    It is that of zlib, but with the bits of each byte, and of the result, the other way round.
    """
    value = ~zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) & 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def read_page(data: bytes, at: int) -> Page | None:
    """The page at ``at``; None if there is none, or not all of it, or its checksum is wrong."""
    head = data[at : at + _HEADER_BYTES + 255]
    if len(head) < _HEADER_BYTES or head[:4] != b"OggS":
        return None
    body = _HEADER_BYTES + head[26]
    sizes = head[_HEADER_BYTES:body]
    stop = at + body + sum(sizes)
    if len(sizes) < head[26] or stop > len(data):
        return None
    flags, granule, serial, number, crc = struct.unpack_from("<BqIII", head, 5)
    if ogg_crc(data[at : at + 22] + bytes(4) + data[at + 26 : stop]) != crc:
        return None
    packets = len(sizes) - sizes.count(255)
    return Page(at, stop, at + body, flags, granule, serial, number, packets)


def _pages(source: Source, start: int) -> Iterator[Page]:
    """All whole pages; what stands between them is skipped."""
    data, at = source.data, start
    while at != -1:
        page = read_page(data, at)
        if page is None:
            at = data.find(b"OggS", at + 1)
            continue
        yield page
        at = page.stop


def ogg_streams(source: Source, start: int) -> list[Stream]:
    links: list[list[Page]] = []
    stop = start
    for page in _pages(source, start):
        first = page.flags & _FIRST
        if not links or (first and not links[-1][-1].flags & _FIRST):
            links.append([])
        links[-1].append(page)
        stop = page.stop
    streams = [stream for pages in links for stream in _streams_of_link(source, pages)]
    if not streams:
        return []
    if source.data.find(b"OggS", stop) != -1:
        streams[-1] = replace(streams[-1], loss="its last Ogg page is cut or damaged")
    alone = len(streams) == 1 and streams[0].start == start and not streams[0].parts
    if alone and not begins_container(source, stop):
        return [replace(streams[0], stop=source.size)]
    return streams


def _streams_of_link(source: Source, pages: list[Page]) -> list[Stream]:
    """The streams of one link of a chain: one, if no page of it is missing."""
    codec, serial = next(
        (
            (codec, page.serial)
            for page in pages
            if page.flags & _FIRST
            for codec in _CODECS
            if source.at(page.body, 8).startswith(codec)
        ),
        (b"", None),
    )
    pages = [page for page in pages if page.serial == serial]
    if not pages:
        return []
    # Headers end a page; only the pages of the sound have the time.
    headers = list(itertools.takewhile(lambda page: page.granule <= 0, pages))
    sound = pages[len(headers) :]
    if not headers or not sound:
        return [Stream(pages[0].start, pages[-1].stop)]
    runs = [[sound[0]]]
    for page in sound[1:]:
        if page.number != runs[-1][-1].number + 1:
            runs.append([])
        runs[-1].append(page)
    if codec == _FLAC:
        flac = [_unpacked_flac(source, headers, run) for run in runs]
        return [replace(part, loss=_LOST) for part in flac[:-1]] + flac[-1:]
    streams = []
    for run in runs:
        stream = Stream(
            run[0].start if streams else headers[0].start,
            run[-1].stop,
            late=run[0].number != headers[-1].number + 1,
            inexact_tail=_last_page_samples(run) if codec == _VORBIS else 0,
        )
        if len(runs) > 1 or len(pages) != len(headers) + len(sound):
            parts = *((p.start, p.stop) for p in headers), *_joined((p.start, p.stop) for p in run)
            loss = "" if run is runs[-1] else _LOST
            stream = replace(stream, parts=parts, loss=loss)
        if not _plausible(source, codec, headers[0], run):
            stream = replace(stream, uncounted=True, inexact_tail=_ALL)
        streams.append(stream)
    return streams


def _joined(ranges: Iterator[tuple[int, int]]) -> Iterator[Part]:
    """Ranges that follow each other become one."""
    start = stop = None
    for first, last in ranges:
        if first != stop:
            if start is not None:
                yield start, stop
            start = first
        stop = last
    yield start, stop


def _last_page_samples(run: list[Page]) -> int:
    """Samples of the last page, as libsndfile seeks in it; all, if that cannot be told."""
    granules = [page.granule for page in run if page.granule >= 0]
    return granules[-1] - granules[-2] if len(granules) > 1 else _ALL


def _plausible(source: Source, codec: bytes, head: Page, run: list[Page]) -> bool:
    """Whether the times of the pages grow no faster than their packets can fill."""
    longest = _OPUS_LONGEST_PACKET
    if codec == _VORBIS:
        longest = 1 << (source.at(head.body + 28, 1)[0] >> 4)
    timed = [page for page in run if page.granule >= 0]
    packets = {page.number: page.packets for page in run}
    for before, page in zip(timed, timed[1:]):
        count = sum(packets[number] for number in range(before.number + 1, page.number + 1))
        if not 0 <= page.granule - before.granule <= (count + 1) * longest:
            return False
    return bool(timed)


def _unpacked_flac(source: Source, headers: list[Page], run: list[Page]) -> Stream:
    """FLAC in Ogg, which libsndfile does not read, as FLAC without it: the same frames."""
    info = source.at(headers[0].body + 17, 34)
    bodies = tuple((page.body, page.stop) for page in run)
    granules = [page.granule for page in run if page.granule >= 0] or [0]

    total = granules[-1]
    first = first_sample(info, source.at(run[0].body, 17))
    frames = total - first
    parts = flac_header(info, total), *bodies
    announced = int.from_bytes(info[13:18], "big") & (1 << 36) - 1
    return Stream(
        headers[0].start,
        run[-1].stop,
        parts,
        frames,
        uncounted=not decodes_to(source.path, parts, total),
        skip=first,
        late=first > 0,
        announced=announced / max(1, frames) if announced else None,
    )
