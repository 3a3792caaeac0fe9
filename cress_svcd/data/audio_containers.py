"""What containers of audio say about their length: a truncated file is not a short one."""

import os
import struct

_OGG_MAX_PAGE_BYTES = 65_307
# Common writers count their own header into the size of the data chunk; that is no truncation.
_RIFF_SLACK_BYTES = 64
# Sizes that writers to a pipe leave behind, not knowing how long the sound will be.
_RIFF_UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)


def missing_riff_bytes(path: str) -> int:
    """Bytes of sound that a RIFF, RF64 or BW64 header announces beyond the end of the file.

    libsndfile quietly takes what there is.  Chunk layout: EBU Tech 3306, section 3.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if file.read(4) not in (b"RIFF", b"RF64", b"BW64"):
            return 0
        file.seek(12)
        long_data_size = None
        while len(header := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"ds64":
                long_data_size = struct.unpack("<8xQ", file.read(16))[0]
                file.seek(length - 16 + length % 2, os.SEEK_CUR)
            elif name == b"data":
                if length == 0xFFFFFFFF and long_data_size is not None:
                    length = long_data_size
                missing = file.tell() + length - size
                known = length not in _RIFF_UNKNOWN_SIZES
                return missing if known and missing > _RIFF_SLACK_BYTES else 0
            else:
                file.seek(length + length % 2, os.SEEK_CUR)
    return 0


def ogg_tail_pages(path: str) -> list[tuple[int, int]]:
    """(granule position, bytes that are missing of it) of the pages at the end of an Ogg file.

    A page is at most 65,307 bytes, so the tail read here holds the last two of them whole.
    Page layout: RFC 3533, section 6.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 3 * _OGG_MAX_PAGE_BYTES))
        tail = file.read()
    pages = []
    position = tail.find(b"OggS")
    while position != -1:
        end = _ogg_page_end(tail, position)
        follows = end is not None and (end >= len(tail) or tail.startswith(b"OggS", end))
        if follows:
            granule = struct.unpack_from("<q", tail, position + 6)[0]
            pages.append((granule, end - len(tail) if end > len(tail) else 0))
            position = end if end < len(tail) else -1
        elif end is None:
            pages.append((-1, 1))
            position = -1
        else:
            # The four letters stood inside a packet.
            position = tail.find(b"OggS", position + 1)
    return pages


def _ogg_page_end(data: bytes, start: int) -> int | None:
    """Where the page at ``start`` ends; None if ``data`` stops within its header."""
    if start + 27 > len(data):
        return None
    table = start + 27
    end_of_table = table + data[start + 26]
    if end_of_table > len(data):
        return None
    return end_of_table + sum(data[table:end_of_table])


def ends_with_whole_ogg_page(path: str) -> bool:
    pages = ogg_tail_pages(path)
    return bool(pages) and pages[-1][1] == 0


def last_ogg_page_start(path: str) -> int:
    """The sample at which the last page of a Vorbis stream begins; 0 if that cannot be told."""
    granules = [granule for granule, _ in ogg_tail_pages(path) if granule >= 0]
    return granules[-2] if len(granules) > 1 else 0
