"""Options that several commands have, or that are many.

What stands here in capitals is so elsewhere, in modules that ``--help`` shall not wait for; a test
holds both together.
"""

import argparse
from pathlib import Path
from typing import Any

from cress_svcd.data.synthesis.speech_options import SpeechOptions
from cress_svcd.errors import ConfigError
from cress_svcd.translation.segmentation import AUTO, SEGMENTERS, Segmentation
from cress_svcd.translation.threads import require_threads

BACKENDS = ("reference", "torch", "cpu", "gpu")
BATCH_SECONDS = 60.0
GROUPINGS = ("layer", "module", "block")
TOKENIZERS = (
    "none",
    "zh",
    "13a",
    "intl",
    "char",
    "ja-mecab",
    "ko-mecab",
    "spm",
    "flores101",
    "flores200",
)


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


def thread_count(text: str) -> int:
    """So many threads or processes that they can run at a time."""
    try:
        count = int(text)
        require_threads(count, "the number")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number") from None
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return count


def thread_count_or_none(text: str) -> int:
    """Likewise, or 0: no others than the one that asks."""
    return 0 if text.strip() == "0" else thread_count(text)


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("translation")
    group.add_argument("--beam", type=int, default=5, help="beam size (default: %(default)s)")
    group.add_argument(
        "--lenpen", type=float, default=1.0, help="length penalty (default: %(default)s)"
    )
    group.add_argument(
        "--max-len-b",
        type=int,
        default=200,
        metavar="N",
        help="most tokens of a segment's translation (default: %(default)s)",
    )
    group.add_argument(
        "--batch-seconds",
        type=float,
        default=BATCH_SECONDS,
        metavar="S",
        help="speech that is translated together (default: %(default)s); 0: each segment alone, "
        "and printed at once",
    )
    group.add_argument(
        "--device", metavar="NAME", help="cpu, cuda or cuda:N; default: a GPU if there is one"
    )
    group.add_argument("--fp16", action="store_true", help="compute in half precision")
    group.add_argument(
        "--threads",
        type=thread_count,
        metavar="N",
        help="CPU threads; default: as torch chooses",
    )
    group.add_argument(
        "--backend",
        choices=("auto", *BACKENDS),
        default="auto",
        help="what computes the packed layers (default: %(default)s, the best that there is)",
    )


def add_segmentation_arguments(parser: argparse.ArgumentParser) -> None:
    default = Segmentation()
    group = parser.add_argument_group("cutting of recordings")
    group.add_argument(
        "--segmenter",
        choices=(AUTO, *SEGMENTERS),
        default=AUTO,
        help="what finds speech (default: %(default)s, the learnt one if the model has it, else "
        "energy). " + "; ".join(f"{name}: {what}" for name, what in SEGMENTERS.items()),
    )
    group.add_argument(
        "--no-segmentation", action="store_true", help="translate each recording as one segment"
    )
    own = "the segmenter's own"
    for option, value, unit, what in (
        ("--max-segment-seconds", default.max_seconds, "S", "longest segment"),
        ("--min-segment-seconds", default.min_seconds, "S", "shorter speech joins its neighbour"),
        ("--pause-seconds", default.pause_seconds, "S", "silence that separates segments"),
        (
            "--threshold-db",
            default.threshold_db,
            "DB",
            "for energy: speech begins at most so far above the noise",
        ),
    ):
        group.add_argument(
            option,
            type=float,
            default=value,
            metavar=unit,
            help=f"{what} (default: {own if value is None else value})",
        )


def segmentation_of(args: argparse.Namespace) -> Segmentation | None:
    """What :func:`add_segmentation_arguments` has parsed; None: recordings are not cut."""
    if args.no_segmentation:
        return None
    return Segmentation(
        args.max_segment_seconds,
        args.min_segment_seconds,
        args.pause_seconds,
        args.threshold_db,
        args.segmenter,
    )


def loading_options(args: argparse.Namespace) -> dict[str, Any]:
    """What ``Translator.load`` is to know of :func:`add_search_arguments`,
    :func:`add_segmentation_arguments` and --data."""
    return {
        "data": args.data,
        "device": args.device,
        "beam": args.beam,
        "lenpen": args.lenpen,
        "max_len_b": args.max_len_b,
        "threads": args.threads,
        "backend": args.backend,
        "fp16": args.fp16,
        "batch_seconds": args.batch_seconds,
        "target_lang": getattr(args, "tgt_lang", None),
        "segmentation": segmentation_of(args),
    }


def add_voice_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = SpeechOptions("en", "", (), ())
    group = parser.add_argument_group("voices")
    group.add_argument(
        "--voices",
        nargs="+",
        metavar="VOICE",
        help="espeak-ng voices, with a variant after a plus sign if wished (en-us en-us+f3), and "
        "those of other synthesisers (flite:slt festival:kal_diphone pico:en-GB hibari:heart); "
        "default: eight of espeak-ng in the source language",
    )
    group.add_argument(
        "--test-voices",
        nargs="+",
        metavar="VOICE",
        help="voices of all splits but train; default: as --voices",
    )
    group.add_argument(
        "--speaker-per",
        choices=("talk", "segment"),
        default=defaults.speaker_per,
        help="a new speaker for each file or for each segment; default: %(default)s",
    )
    for option, kind, pair, what in (
        ("--rate", int, defaults.rate, "words a minute, 80 to 450"),
        ("--pitch", int, defaults.pitch, "0 to 99; 50 is the voice's own"),
        ("--gain", float, defaults.gain_db, "level in dB, -40 to 0"),
    ):
        group.add_argument(
            option,
            nargs=2,
            type=kind,
            default=pair,
            metavar=("MIN", "MAX"),
            help=f"range that speakers are drawn from: {what}; default: {pair[0]} {pair[1]}",
        )
    group.add_argument(
        "--noise", type=float, metavar="SNR_DB", help="add white noise that far below the speech"
    )
    group.add_argument(
        "--seed", type=int, default=defaults.seed, help="of all chance; default: %(default)s"
    )


def add_sensitivity_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sensitivity")
    group.add_argument("--sensitivity", action="store_true", help="measure each layer alone")
    group.add_argument(
        "--by",
        choices=GROUPINGS,
        default="layer",
        help="what is quantised at a time: a linear layer, a module such as one attention, or a "
        "block such as one decoder layer (default: %(default)s)",
    )
    group.add_argument("--bleu", action="store_true", help="measure BLEU as well; slow")
    group.add_argument("--beam", type=positive, default=1, help="for --bleu (default: %(default)s)")
    group.add_argument(
        "--trials", type=Path, metavar="FILE", help="JSON lines: what is measured, to go on from"
    )
    budget = group.add_mutually_exclusive_group()
    budget.add_argument(
        "--budget-bits",
        type=float,
        metavar="B",
        help="propose a policy of so many bits a weight on average, scales included",
    )
    budget.add_argument(
        "--keep-loss",
        type=float,
        metavar="X",
        help="propose a policy of as few bits as cost X bits a token at the most",
    )
    group.add_argument("-o", "--output", type=Path, help="write the proposed policy there (YAML)")
