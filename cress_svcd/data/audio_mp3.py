"""MPEG audio: its frames, one behind the other, and how many there are.

libmpg123 reads a file as far as its header or a guess from its size says.  So the frames are
counted here, by their headers, and libmpg123 is given the count: in the frame of tags (Xing, Info)
with which most encoders begin, or in one that is put in front.
"""

import mmap
import struct
from dataclasses import dataclass, field, replace
from functools import cache

from cress_svcd.data.audio_streams import Stream, begins_container, skip_id3
from cress_svcd.data.audio_views import Source

_BITRATES = {
    # (MPEG 1, layer): kbit/s
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
# Sync is found where so many frames follow each other, or fewer to the end.
_SURE_FRAMES = 3
_UNDOUBTED_FRAMES = 12
_TAG_FRAME_BYTES = 160
# By this libsndfile tells that it is MP3, whatever lies next to the file or in the folder.
EMPTY_ID3 = b"ID3\3\0\0\0\0\0\x0a" + bytes(10)
# Of layer III in libmpg123, which takes it off where a file has a tag.
_DECODER_DELAY = 529
# From a frame's first byte to the name of its tag: header, side information, perhaps a checksum.
_TAG_DISTANCES = (13, 15, 21, 23, 36, 38)


@dataclass(frozen=True)
class _Kind:
    """What two bytes of a frame's header say, but for the length: the decoder's settings."""

    mpeg1: bool
    layer: int
    rate: int

    @property
    def samples(self) -> int:
        if self.layer == 1:
            return 384
        return 1152 if self.layer == 2 or self.mpeg1 else 576


@cache
def _table() -> dict[int, tuple[int, _Kind]]:
    """(bytes of the frame, kind) by the second and third byte of a header."""
    table = {}
    for second in range(0xE0, 0x100):
        version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
        if version == 1 or layer == 4:
            continue
        for third in range(256):
            bitrate, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
            if bitrate in (0, 15) or rate == 3:
                continue
            hertz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
            bits = 1000 * _BITRATES[version == 3, layer][bitrate - 1]
            kind = _Kind(version == 3, layer, hertz)
            if layer == 1:
                size = (12 * bits // hertz + padding) * 4
            else:
                size = kind.samples // 8 * bits // hertz + padding
            table[second << 8 | third] = size, kind
    return table


_Key = tuple[_Kind, bool]
"""A kind, and whether the sound has one channel: where either changes, decoders begin anew."""


@dataclass
class _Run:
    """Frames of one key; ``ranges``: of the file, where nothing stands between them."""

    key: _Key
    frames: int = 0
    last: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    foreign: int = 0

    def add(self, at: int, size: int) -> None:
        self.frames += 1
        self.last = at
        if self.ranges and self.ranges[-1][1] == at:
            self.ranges[-1] = self.ranges[-1][0], at + size
        else:
            self.ranges.append((at, at + size))


def mp3_streams(source: Source, start: int, stop: int | None = None) -> list[Stream]:
    """The streams of the frames from ``start`` on; none if there are no frames."""
    stop = source.size if stop is None else stop
    runs, loss, end = _runs(source, start, stop)
    streams = [_stream(source, run) for run in runs]
    streams = [stream for stream in streams if stream is not None]
    if streams and loss:
        streams[-1] = replace(streams[-1], loss=loss)
    if begins_container(source, end):
        streams[-1:] = [replace(stream, stop=end) for stream in streams[-1:]]
    elif len(streams) == 1 and not streams[0].parts:
        return [replace(streams[0], start=start, stop=source.size)]
    return [
        replace(stream, parts=(EMPTY_ID3, *(stream.parts or ((stream.start, stream.stop),))))
        for stream in streams
    ]


def find_mp3(source: Source, start: int) -> int | None:
    """Where so many frames follow each other that they are no picture in a tag."""
    while (found := _sync(source.data, start, source.size)) is not None:
        frames, at = 0, found
        first = frame = _frame_at(source.data, at, source.size)
        while first and frame and frame[1] == first[1] and frames < _UNDOUBTED_FRAMES:
            frames, at = frames + 1, at + frame[0]
            frame = _frame_at(source.data, at, source.size)
        if frames == _UNDOUBTED_FRAMES or at == source.size:
            return found
        start = found + 1
    return None


def is_mp3(source: Source, at: int) -> bool:
    """Whether frames begin at ``at``."""
    return source.at(at, 1) == b"\xff" and _is_sync(source.data, at, source.size)


def _runs(source: Source, start: int, stop: int) -> tuple[list[_Run], str, int]:
    """All frames, in runs of one key, of which a frame of tags begins another; what is lost; and
    where they end, and the tags behind them."""
    data = source.data
    tagged = _places_of_tags(source, start, stop)
    runs: list[_Run] = []
    at = start
    while True:
        frame = _frame_at(data, at, stop)
        if frame is None or (runs and frame[1] != runs[-1].key and not _is_sync(data, at, stop)):
            behind = min(_skip_tags(source, at), stop)
            # Behind all tags: another file may follow, in which frames would be found by chance.
            found = None if begins_container(source, behind) else _sync(data, behind, stop)
            if found is None:
                break
            if runs and source.at(behind, found - behind).strip(b"\0"):
                runs[-1].foreign += found - behind
            at = found
            frame = _frame_at(data, at, stop)
            assert frame is not None
        size, key = frame
        if not runs or key != runs[-1].key or at in tagged:
            runs.append(_Run(key))
        runs[-1].add(at, size)
        at += size
    cut = runs and data[at : at + 1] == b"\xff" and _frame_at(data, at, stop + (1 << 16), stop)
    return runs, "its last frame is cut" if cut else "", min(_skip_tags(source, at), stop)


def _frame_at(
    data: mmap.mmap, at: int, stop: int, header_stop: int | None = None
) -> tuple[int, _Key] | None:
    """(bytes, key) of the frame at ``at``; None if there is none, or not all of it."""
    if at + 4 > (stop if header_stop is None else header_stop) or data[at] != 0xFF:
        return None
    entry = _table().get(data[at + 1] << 8 | data[at + 2])
    if entry is None or at + entry[0] > stop:
        return None
    return entry[0], (entry[1], data[at + 3] >> 6 == 3)


def _is_sync(data: mmap.mmap, at: int, stop: int) -> bool:
    """Whether frames of one key follow each other from ``at`` on."""
    key = None
    for count in range(_SURE_FRAMES):
        frame = _frame_at(data, at, stop)
        if frame is None:
            return count > 0 and (at == stop or data[at : at + 3] in (b"TAG", b"APE", b"ID3"))
        if key not in (None, frame[1]):
            return False
        at, key = at + frame[0], frame[1]
    return True


def _sync(data: mmap.mmap, at: int, stop: int) -> int | None:
    """Where frames begin, at ``at`` or behind it."""
    at = data.find(b"\xff", at, stop)
    while at != -1 and not _is_sync(data, at, stop):
        at = data.find(b"\xff", at + 1, stop)
    return None if at == -1 else at


def _skip_tags(source: Source, at: int) -> int:
    """The end of the tags at ``at``, of any kind."""
    while True:
        head, end = source.at(at, 32), at
        if head[:3] == b"ID3":
            end = skip_id3(source, at)
        elif head[:3] == b"TAG":
            end = at + 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            size, _, flags = struct.unpack_from("<III", head, 12)
            # The size counts items and footer; at ``at`` stands the header, or an only footer.
            end = at + 32 + (size if flags >> 29 & 1 else 0)
        if end == at:
            return at
        at = end


def _places_of_tags(source: Source, start: int, stop: int) -> set[int]:
    """Where frames would begin that hold a count of frames."""
    places = set()
    for name in (b"Xing", b"Info", b"VBRI"):
        at = source.data.find(name, start, stop)
        while at != -1:
            places |= {at - distance for distance in _TAG_DISTANCES}
            at = source.data.find(name, at + 1, stop)
    return places


def _tag_at(frame: bytes, key: _Key) -> int | None:
    """Where in a frame the count of frames stands, behind the name."""
    if key[0].layer != 3:
        return None
    distance = 4 + _side_bytes(key)
    for at in (distance, distance + 2):
        if frame[at : at + 4] in (b"Xing", b"Info"):
            return at
    return None


def _side_bytes(key: _Key) -> int:
    kind, mono = key
    return (17 if mono else 32) if kind.mpeg1 else (9 if mono else 17)


def _stream(source: Source, run: _Run) -> Stream | None:
    (kind, _), start = run.key, run.ranges[0][0]
    first_frame = _frame_at(source.data, start, source.size)
    assert first_frame is not None
    size = first_frame[0]
    loss = f"{run.foreign} bytes in it are no MP3 frames" if run.foreign else ""
    stream = Stream(start, run.ranges[-1][1], announced=None, loss=loss)
    if kind.layer != 3:
        # Of constant rate, so that libmpg123 guesses well, but for the last frames.
        last = source.at(run.last, stream.stop - run.last)
        parts = *run.ranges, last, last
        return replace(stream, parts=parts, frames=run.frames * kind.samples)
    first = source.at(start, size)
    tag = _tag_at(first, run.key)
    flags = 0 if tag is None else first[tag + 7]
    if tag is None and first[36:40] != b"VBRI":
        ranges, frames = _drop_undecodable(source, run)
    else:
        ranges, frames = [(start + size, run.ranges[0][1]), *run.ranges[1:]], run.frames - 1
    if frames == 0:
        return None
    total = sum(last - start for start, last in ranges)
    if not flags & 1:
        # libmpg123 drops the first samples of what follows a tag, so silence follows it.
        silence = _frame_like(first, run.key)
        tags = _tag_frame(silence, run.key, frames + 1, total + 2 * len(silence))
        return replace(
            stream,
            parts=(tags, silence, *ranges),
            frames=frames * kind.samples,
            skip=kind.samples - _DECODER_DELAY,
        )
    counted = int.from_bytes(first[tag + 8 : tag + 12], "big")
    announced = int.from_bytes(first[tag + 12 : tag + 16], "big") if flags & 2 else total + size
    if counted == frames and not run.foreign and abs(announced - total - size) * 100 <= total:
        return replace(stream, announced=1.0)
    patched = _patch_tag(first, tag, frames, total + size, counted)
    return replace(stream, parts=(patched, *ranges), announced=counted / frames)


def _patch_tag(first: bytes, tag: int, frames: int, size: int, counted: int) -> bytes:
    """The frame of tags with the right counts."""
    patched = bytearray(first)
    struct.pack_into(">I", patched, tag + 8, frames)
    flags, at = first[tag + 7], tag + 12
    if flags & 2:
        struct.pack_into(">I", patched, at, size)
    at += (4 if flags & 2 else 0) + (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
    if counted != frames and len(first) >= at + 24:
        # What the encoder added to fill its last frame is not at the end of these.
        patched[at + 22] &= 0xF0
        patched[at + 23] = 0
    return bytes(patched)


def _frame_like(first: bytes, key: _Key) -> bytes:
    """A frame of ``key`` without sound, large enough for a tag."""
    second, rate = first[1] | 1, first[2] & 0x0C
    sizes = (_table()[second << 8 | bitrate << 4 | rate][0] for bitrate in range(1, 15))
    bitrate, size = next(
        (bitrate, size) for bitrate, size in enumerate(sizes, 1) if size >= _TAG_FRAME_BYTES
    )
    return bytes([0xFF, second, bitrate << 4 | rate, first[3]]) + bytes(size - 4)


def _tag_frame(silence: bytes, key: _Key, frames: int, size: int) -> bytes:
    """A frame of silence that holds the numbers of frames and bytes."""
    at = 4 + _side_bytes(key)
    tag = b"Xing" + struct.pack(">III", 3, frames, size)
    return silence[:at] + tag + silence[at + len(tag) :]


def _drop_undecodable(source: Source, run: _Run) -> tuple[list[tuple[int, int]], int]:
    """Ranges and number of the frames but for the first that need what stood before them.

    Sound may begin in frames before, by so many bytes as the first bits of the side information
    say.
    """
    (start, stop), *rest = run.ranges
    dropped, there = 0, 0
    while start < stop:
        frame = _frame_at(source.data, start, stop)
        assert frame is not None
        checked = 0 if source.data[start + 1] & 1 else 2
        side = int.from_bytes(source.at(start + 4 + checked, 2), "big")
        if side >> (7 if run.key[0].mpeg1 else 8) <= there:
            break
        there += frame[0] - 4 - checked - _side_bytes(run.key)
        start += frame[0]
        dropped += 1
    return ([(start, stop)] if start < stop else []) + rest, run.frames - dropped
