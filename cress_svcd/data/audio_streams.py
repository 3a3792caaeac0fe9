"""What is found in a container of audio: the streams that one decoder reads each."""

import re
from dataclasses import dataclass

from cress_svcd.data.audio_views import Part, Source


@dataclass(frozen=True)
class Stream:
    """Sound that one decoder reads from its first sample to its last.

    Attributes:
        start: where the stream begins in the file.
        stop: where it ends.  Another may begin there.
        parts: what libsndfile shall see of it; None: the bytes from ``start`` to ``stop``.
        frames: samples of a channel, where libsndfile could not tell; None: as many as it says.
        uncounted: that neither can tell, and they are to be counted by decoding.
        announced: length that the header announces, as a share of what is there; None: the header
            does not know.
        announced_frames: samples of a channel that it announces, where they are counted; 0: it
            does not know.
        skip: samples that libsndfile counts before the first of the file.
        late: that decoders find the first sample by seeking only, as it is not that of time 0.
        inexact_tail: samples at the end that seeking does not find exactly.
        loss: sound that cannot be read, in words.
    """

    start: int
    stop: int
    parts: tuple[Part, ...] | None = None
    frames: int | None = None
    uncounted: bool = False
    announced: float | None = 1.0
    announced_frames: int | None = None
    skip: int = 0
    late: bool = False
    inexact_tail: int = 0
    loss: str = ""


# Sound that is shorter than this was not lost: common writers count their own header as sound.
SLACK_BYTES = 64
_NOT_SOUND_BYTES = 1 << 16
# More zero bytes than these are silence.
_MOST_PADDING = 1 << 24
_NOT_ZERO = re.compile(rb"[^\0]")
_COMMON_MAGIC = re.compile(rb"RIFF|RIFX|RF64|BW64|FORM|fLaC|OggS|caff|riff")
SVX_FORMS = b"8SVX", b"16SV"
RARE_HEAD = re.compile(
    # AVR, VOC, WVE, PVF, PAF, MAT5, XI; MAT4, MPC2K, SDS, IRCAM
    rb"2BIT|Creative Voice File\x1a|ALawSoundFile\*\*\x00|PVF1\n\d| paf\x00{4}|fap \x00{4}"
    rb"|MATLAB 5\.0 MAT-file|Extended Instrument: "
    rb"|(?:\x00{4}|\x00\x00\x03\xe8)(?:\x01\x00{3}|\x00{3}\x01){2}\x00{4}(?:\x0b\x00{3}|\x00{3}\x0b)samplerate"
    rb"|\x01\x04[ -~]{17}[\x00-\xc8][\x00-\xff][\x00\x01]"
    rb"|\xf0\x7e[\x00-\x7f]\x01[\x00-\x7f]{2}[\x08-\x1c][\x00-\x7f]{6}"
    rb"|\x64\xa3[\x01-\x04]\x00..[\x00-\xff][\x44-\x48][\x01-\x08]\x00{3}"
    rb"|\x00[\x01-\x04]\xa3\x64[\x44-\x48]...\x00{3}[\x01-\x08]",
    re.DOTALL,
)
W64_HEAD = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
# Writers to a pipe leave behind the largest size that they know, less some header or block.
_UNKNOWN_SIZES = (1 << 31, 1 << 32, 0x7F000000)
_UNKNOWN_MARGIN = 1 << 16


def is_unknown(size: int) -> bool:
    """Whether a size in a header, in bytes, only says that the writer did not know it."""
    near = any(abs(size - limit) <= _UNKNOWN_MARGIN for limit in _UNKNOWN_SIZES)
    return size <= 0 or near or size >= 1 << 62


def begins_container(source: Source, at: int) -> bool:
    """Whether a header of some kind stands at ``at``."""
    head = source.at(at, 32)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return head[8:12] == b"WAVE"
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC", *SVX_FORMS)
    if head[:4] in (b".snd", b"dns."):
        order = "big" if head[:1] == b"." else "little"
        return 24 <= int.from_bytes(head[4:8], order) < 1 << 16
    if head[:4] == b"fLaC":
        return head[4] & 127 == 0 and head[5:8] == b"\0\0\x22"
    return (
        head[:8] == b"caff\0\1\0\0"
        or head[:5] == b"OggS\0"
        or head[:16] == W64_HEAD
        or head[:8] == b"NIST_1A\n"
        or RARE_HEAD.match(head) is not None
    )


def find_container(source: Source, magic: bytes, start: int, stop: int) -> int | None:
    """Where the next header that begins with ``magic`` stands."""
    at = source.data.find(magic, start, stop)
    while at != -1 and not begins_container(source, at):
        at = source.data.find(magic, at + 1, stop)
    return None if at == -1 else at


def next_container(source: Source, start: int, stop: int) -> int | None:
    """Where the next header of a common kind stands."""
    for found in _COMMON_MAGIC.finditer(source.data, start, min(stop, source.size)):
        if begins_container(source, found.start()):
            return found.start()
    return None


def is_no_sound(source: Source, start: int, stop: int) -> bool:
    """Whether a short rest is padding, text or a tag."""
    if stop - start < SLACK_BYTES:
        return True
    if stop - start > _NOT_SOUND_BYTES:
        return False
    rest = source.at(start, stop - start)
    if rest.startswith((b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")):
        return True
    return not rest.strip(b"\0") or all(32 <= byte < 127 or byte in b"\0\t\r\n" for byte in rest)


def skip_padding(source: Source, at: int) -> int:
    """Where a container begins behind zero bytes at ``at``; ``at``, if none does."""
    if source.at(at, 1) != b"\0":
        return at
    found = _NOT_ZERO.search(source.data, at, at + _MOST_PADDING)
    if found is None:
        return at
    behind = skip_id3(source, found.start())
    return behind if begins_container(source, behind) else at


def skip_id3(source: Source, at: int) -> int:
    """The end of the ID3v2 tags that begin at ``at``."""
    while (head := source.at(at, 10))[:3] == b"ID3" and len(head) == 10:
        if any(byte & 128 for byte in head[6:]):
            break
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at += 10 + size + (10 if head[5] & 16 else 0)
    return at
