"""Options of what ``translate`` writes: its formats, and the limits of subtitles."""

import argparse

from cress_svcd.errors import ConfigError
from cress_svcd.translation.subtitles import SubtitleLimits

# Those of translation/output.py, which --help shall not wait for; a test holds both together.
OUTPUT_FORMATS = ("text", "jsonl", "srt", "vtt", "ttml")
SUBTITLES = ("srt", "vtt", "ttml")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output-format",
        choices=OUTPUT_FORMATS,
        default="text",
        help="default: %(default)s; srt, vtt and ttml are subtitles",
    )
    group.add_argument(
        "-o",
        "--output",
        metavar="FILE|FOLDER/",
        help="a file (it appears when all is done), or a folder for a file for each recording "
        "(subtitles of several recordings need one); default: standard output",
    )
    group.add_argument(
        "--word-times",
        action="store_true",
        help="with jsonl: when each word is said, in seconds, under words",
    )
    group.add_argument(
        "--transcript",
        action="store_true",
        help="print what was said, in the source language, as the model's CTC head hears it: in "
        "the place of the translation, in jsonl besides it, under transcript",
    )


def add_subtitle_arguments(parser: argparse.ArgumentParser) -> None:
    default = SubtitleLimits()
    group = parser.add_argument_group(
        "limits of subtitles",
        "Cues never overlap and no word is lost; where speech is too fast for all the rest,\n"
        "a line says how many cues break which limit.",
    )
    for option, kind, value, unit, what in (
        ("--max-line-characters", int, default.max_line_characters, "N", "of a line"),
        ("--max-lines", int, default.max_lines, "N", "of a cue"),
        ("--min-cue-seconds", float, default.min_cue_seconds, "S", "that a cue stays"),
        ("--max-cue-seconds", float, default.max_cue_seconds, "S", "that a cue stays"),
        (
            "--max-characters-per-second",
            float,
            default.max_characters_per_second,
            "N",
            "that are to be read",
        ),
        ("--min-gap-frames", int, default.min_gap_frames, "N", "of the picture between two cues"),
        ("--fps", float, default.fps, "N", "frames a second of the picture"),
    ):
        group.add_argument(
            option, type=kind, default=value, metavar=unit, help=f"{what} (default: {value:g})"
        )


def subtitle_limits(args: argparse.Namespace) -> SubtitleLimits:
    """What :func:`add_subtitle_arguments` has parsed."""
    return SubtitleLimits(
        args.max_line_characters,
        args.max_lines,
        args.min_cue_seconds,
        args.max_cue_seconds,
        args.max_characters_per_second,
        args.min_gap_frames,
        args.fps,
    )


def check_output_arguments(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together."""
    if args.word_times and args.output_format != "jsonl":
        raise ConfigError("--word-times: the times stand in JSON lines; add --output-format jsonl")
    if args.text:
        for option in ("word_times", "transcript"):
            if getattr(args, option):
                raise ConfigError(f"--{option.replace('_', '-')}: text is not said; leave --text")
