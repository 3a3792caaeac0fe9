"""SRT, WebVTT and TTML files of subtitles, written by pysubs2.

Whatever the words are, they are shown: pysubs2 takes braces and backslashes for the tags of its own
format, SubStation, so they are hidden from it, and what the formats read otherwise is escaped.
"""

import re
from collections.abc import Sequence

import pysubs2

from cress_svcd.translation.subtitles import Cue

FORMATS = ("srt", "vtt", "ttml")
# Code points that no text holds (Unicode's noncharacters; subtitles._clean removes them).
SHOWN = {0xFDD0: "{", 0xFDD1: "}", 0xFDD2: "\\"}
HIDDEN = {ord(shown): hidden for hidden, shown in SHOWN.items()}
WORD_JOINER = "\u2060"


def render(cues: Sequence[Cue], form: str) -> str:
    """The content of a file of ``form`` (one of FORMATS) with these cues."""
    subtitles = pysubs2.SSAFile()
    for cue in cues:
        lines = [_escape(line, form).translate(HIDDEN) for line in cue.lines]
        subtitles.append(pysubs2.SSAEvent(start=cue.start, end=cue.end, text=r"\N".join(lines)))
    text = subtitles.to_string(form)
    if form == "ttml":
        text = _readable_xml(text)
    return text.translate(SHOWN)


def _escape(line: str, form: str) -> str:
    if form == "vtt":
        for character, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            line = line.replace(character, escape)
    if form == "srt":
        # The format has no escapes.  An arrow would be read as a line of times; players take what
        # looks like a tag for one, unless an invisible character stands in it.
        line = line.replace("-->", "→")
        line = re.sub(r"<(?=/?[a-zA-Z])|\{(?=\\)", rf"\g<0>{WORD_JOINER}", line)
    return line


def _readable_xml(text: str) -> str:
    """pysubs2's TTML with letters instead of their numbers, and what the standard asks for."""
    text = re.sub(r"&#(\d{3,});", lambda match: chr(int(match[1])), text)
    text = text.replace("<tt ", '<tt xml:lang="" ', 1).replace("<style id=", "<style xml:id=")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'
