"""What the engine has in common with Python: the same numbers, words and letters in both."""

import importlib
import json
import re
import struct
import subprocess
import sys
import unicodedata

import pytest

from cress_svcd.translation import phrases
from cress_svcd.translation.options import TranslatorOptions
from cress_svcd.translation.segmentation import base
from cress_svcd.translation.segmentation.options import Segmentation
from cress_svcd.translation.subtitles import SubtitleLimits
from tests.native.conftest import NATIVE

SOURCES = NATIVE / "src"
# A source, its twins in cress_svcd.translation, and how many of its numbers have a name there.
TWINS = {
    "segment_energy": (["segmentation.energy"], 28),
    "segment_divide": (["segmentation.divide", "segmentation.base"], 4),
    "segment_learnt": (["segmentation.windows", "segmentation.learnt"], 3),
    "loudness": (["loudness"], 3),
    "word_times": (["word_times"], 4),
    "phrases": (["phrases"], 5),
    "subtitles": (["subtitles"], 5),
    "repetition": (["repetition"], 2),
    "translate": (["search"], 1),
}


def numbers(name) -> dict[str, float]:
    """The numbers that a source gives names to."""
    text = re.sub(r"/\*.*?\*/", "", (SOURCES / f"{name}.c").read_text(), flags=re.DOTALL)
    bodies = re.findall(r"static const (?:double|float) ([^;\[{]*);|enum \{([^}]*)\};", text)
    pairs = re.findall(r"(\w+) = (-?[\d.e-]+)\s*(?:,|$)", ",".join(map("".join, bodies)))
    return {name: float(value) for name, value in pairs}


@pytest.mark.parametrize("name", TWINS)
def test_a_source_has_the_numbers_of_its_twin(name):
    modules, count = TWINS[name]
    known = {}
    for module in modules:
        known |= vars(importlib.import_module(f"cress_svcd.translation.{module}"))
    found = {key: value for key, value in numbers(name).items() if key in known}
    assert found == {key: known[key] for key in found}
    assert len(found) >= count


def test_recordings_are_cut_as_the_segmenter_likes():
    names = ("PAUSE", "MIN", "BEFORE", "AFTER", "THRESHOLD")
    found = numbers("recordings")
    assert [found[name] for name in names] == [getattr(base.Segmenter, name) for name in names]


def test_subtitles_have_the_usual_limits():
    limits, found = SubtitleLimits(), numbers("subtitles")
    assert found["LINE"] == limits.max_line_characters and found["LINES"] == limits.max_lines
    assert found["SHORTEST"] == 1000 * limits.min_cue_seconds
    assert found["LONGEST"] == 1000 * limits.max_cue_seconds
    assert found["LETTERS_A_SECOND"] == limits.max_characters_per_second
    assert found["GAP"] == 1000 * limits.min_gap_frames / limits.fps


def test_the_defaults_are_those_of_python():
    body = (SOURCES / "cress.c").read_text().partition("cress_default_options")[2]
    found = dict(re.findall(r"\.(\w+) = (-?\d+)", body.partition("};")[0]))
    options, cutting = TranslatorOptions(), Segmentation()
    assert int(found["beam"]) == options.beam
    assert int(found["max_length"]) == options.max_len_b
    assert int(found["length_penalty"]) == options.lenpen
    assert float(found["max_seconds"]) == cutting.max_seconds
    assert float(found["threshold_db"]) == cutting.threshold_db
    assert found["min_seconds"] == found["pause_seconds"] == "-1"  # the segmenter's own
    assert cutting.min_seconds is cutting.pause_seconds is None


def test_phrases_begin_with_the_same_words():
    text = (SOURCES / "phrases.c").read_text()

    def words(name) -> set[str]:
        body = re.search(rf"{name}\[\] =\s(.*?);", text, flags=re.DOTALL)[1]
        return set("".join(re.findall(r'"([^"]*)"', body)).split())

    assert words("PHRASE_STARTS") == phrases.PHRASE_STARTS
    assert words("PHRASE_STARTS") | words("BOUND_TO_NEXT") == phrases.BOUND_TO_NEXT


LETTERS = """
#include <stdio.h>
#include "letters.h"
int main(void)
{
    for (int32_t letter = 0; letter < 0x110000; letter++)
        printf("%d%d%d%x ", is_space(letter), is_without_spaces(letter), is_mark(letter),
               (unsigned)lower(letter));
    return 0;
}
"""


def test_letters_are_of_the_same_kinds(engine, tmp_path):
    """All spaces and scripts; marks and small letters, of which it knows the usual ones."""
    program, made = tmp_path / "letters.c", tmp_path / "letters"
    program.write_text(LETTERS)
    objects = [engine.parent / "letters.o", engine.parent / "arena.o"]
    subprocess.run(["cc", "-std=gnu11", f"-I{SOURCES}", program, *objects, "-o", made], check=True)
    done = subprocess.run([made], capture_output=True, text=True, check=True)
    found = done.stdout.split()
    assert len(found) == sys.maxunicode + 1
    marks = 0
    for number, kinds in enumerate(found):
        letter = chr(number)
        assert kinds[0] == str(int(letter.isspace())), hex(number)
        assert kinds[1] == str(int(bool(phrases.WITHOUT_SPACES.match(letter)))), hex(number)
        if kinds[2] == "1" and unicodedata.category(letter) != "Cn":
            assert unicodedata.category(letter).startswith("M"), hex(number)
            marks += 1
    assert marks > 300
    for word in phrases.BOUND_TO_NEXT:
        for letter in word.upper():
            if len(letter.lower()) == 1:
                assert chr(int(found[ord(letter)][3:], 16)) == letter.lower()


def words_of(plan) -> set[str]:
    """The keys of a plan, without names of layers and languages."""
    if isinstance(plan, list):
        return set().union(*map(words_of, plan))
    if not isinstance(plan, dict):
        return set()
    words = set(plan)
    for key, value in plan.items():
        named = key in ("linears", "languages")
        words |= words_of(list(value.values()) if named and value else value)
    return words


@pytest.mark.parametrize("name", ["full", "everything", "quest", "tbt", "onebit"])
def test_the_page_names_all_that_a_file_holds(exported, name):
    options = ("--allow-full", "--dtype", "fp32") if name == "full" else ()
    content = exported(name, *options)[1].read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    metadata = header.pop("__metadata__")
    page = (NATIVE.parent / "docs" / "native.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w. ]+)`", page))
    plan = json.loads(metadata["plan"])
    assert len(words_of(plan)) > 40
    assert words_of(plan) | metadata.keys() <= named
    assert {one["dtype"] for one in header.values()} <= {"U8", "I8", "I32", "F32", "F16", "BF16"}
    suffixes = {key.rpartition(".")[2] for key in header if "/" not in key}
    assert suffixes - {"version"} <= named, suffixes
