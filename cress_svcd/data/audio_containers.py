"""Which streams a file of audio holds, whatever its headers say of its length.

libsndfile believes headers.  Those of pipes and stopped recorders do not know the length; those of
files that were cut, continued or joined misstate it.  Here the structure of the file is compared
with them; where both agree, the file is read as it stands.
"""

import codecs
import os
from dataclasses import replace

from cress_svcd.data.audio_chunks import (
    aiff_stream,
    au_stream,
    caf_stream,
    mp3_in_riff,
    nist_stream,
    riff_stream,
    w64_stream,
)
from cress_svcd.data.audio_flac import flac_streams
from cress_svcd.data.audio_mp3 import EMPTY_ID3, find_mp3, is_mp3, mp3_streams
from cress_svcd.data.audio_ogg import ogg_streams
from cress_svcd.data.audio_rare import rare_stream
from cress_svcd.data.audio_streams import (
    Stream,
    begins_container,
    next_container,
    skip_id3,
    skip_padding,
)
from cress_svcd.data.audio_views import Source

_PARSERS = {
    b"RIFF": riff_stream,
    b"RIFX": riff_stream,
    b"RF64": riff_stream,
    b"BW64": riff_stream,
    b"riff": w64_stream,
    b"FORM": aiff_stream,
    b".snd": au_stream,
    b"dns.": au_stream,
    b"caff": caf_stream,
    b"NIST": nist_stream,
}
# What is looked through for sound: a tag with pictures, the head of an answer of HTTP.
_MOST_TAG, _MOST_TEXT = 1 << 24, 1 << 13
_MP3_SUFFIXES = (b".mp1", b".mp2", b".mp3", b".mpga")
_OGG_SUFFIXES = (b".oga", b".ogg", b".opus")


def streams_of(path: str) -> list[Stream]:
    """The streams of a file that is not empty, in their order.

    One of no parts from 0 on is the file as it stands, which libsndfile knows or does not.
    """
    with Source(path) as source:
        tags = skip_id3(source, 0)
        start = skip_padding(source, tags)
        if (behind := _behind_front(source, start)) != start:
            tags, start = 0, behind
        streams: list[Stream] = []
        while found := _streams_at(source, start):
            streams += found
            start = found[-1].stop
            if not begins_container(source, start):
                break
        if not streams:
            return [Stream(0, source.size)]
        alone = len(streams) == 1 and not streams[0].parts and streams[0].stop == source.size
        # libsndfile skips tags in front, but for Ogg, and no padding.
        skipped = streams[0].start <= tags and source.at(streams[0].start, 4) != b"OggS"
        if alone and (streams[0].start == 0 or skipped):
            return [replace(streams[0], start=0)]
        return [stream if stream.parts else _by_itself(source, stream) for stream in streams]


def _by_itself(source: Source, stream: Stream) -> Stream:
    """The stream without what stands around it."""
    name = () if begins_container(source, stream.start) else (EMPTY_ID3,)
    return replace(stream, parts=(*name, (stream.start, stream.stop)))


def _behind_front(source: Source, start: int) -> int:
    """Where sound begins behind a tag whose size is wrong, or the head of a download.

    ``start``, if sound begins there, or neither stands in front.
    """
    if begins_container(source, start) or is_mp3(source, start):
        return start
    if source.at(0, 3) == b"ID3":
        found = next_container(source, 10, _MOST_TAG)
        mp3 = find_mp3(source, 10) if found is None else None
        return next((at for at in (found, mp3) if at is not None), start)
    found = next_container(source, 0, _MOST_TEXT)
    text = source.at(0, found or 0).removeprefix(codecs.BOM_UTF8)
    if found and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
        return found
    return start


def _streams_at(source: Source, start: int) -> list[Stream]:
    """The streams that begin at ``start``: none if no container is known that does."""
    magic = source.at(start, 4)
    if magic == b"OggS":
        return ogg_streams(source, start)
    if magic == b"RIFF" and (frames := mp3_in_riff(source, start)) is not None:
        return mp3_streams(source, frames)
    if magic == b"fLaC":
        return flac_streams(source, start)
    stream = rare_stream(source, start)
    if stream is None and magic in _PARSERS:
        stream = _PARSERS[magic](source, start)
    if stream is not None or magic in _PARSERS:
        return [] if stream is None else [stream]
    if start >= source.size:
        return []
    name = os.fsencode(source.path).lower()
    if name.endswith(_OGG_SUFFIXES):
        return ogg_streams(source, start)
    if name.endswith(_MP3_SUFFIXES) or is_mp3(source, start):
        return mp3_streams(source, start)
    return []
