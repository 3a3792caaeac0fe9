"""Make a speech-translation corpus out of parallel text, with synthetic speech.

For those who have translations and no recordings, for demos, and for measurements.  The result
has the layout of a MuST-C release, so 'cress-svcd prepare-mustc' takes it from there:

  OUTPUT/SRC-TGT/data/SPLIT/wav/SPLIT_00000.wav ...   several segments a file, pauses between
  OUTPUT/SRC-TGT/data/SPLIT/txt/SPLIT.{yaml,SRC,TGT}  line-aligned: where, what, translation
  OUTPUT/SRC-TGT/data/SPLIT/txt/SPLIT.phones          with --phones: [[seconds, phone], ...] a line
  OUTPUT/SRC-TGT/data/SPLIT/txt/SPLIT.speak.json      settings, counts, speakers

Example:

  cress-svcd speak --split train train.en train.de --split dev val.en val.de \\
      --split tst-COMMON test.en test.de --tgt-lang de -o corpus

The synthesiser is espeak-ng.  Others with their voices inside can be installed next to it, and a
voice names its own:

  --voices en-us en-gb+f3 flite:slt flite:rms festival:ked_diphone pico:en-GB hibari:heart

flite and festival are packages of the distribution, pico and hibari of pip install
'cress_svcd[voices]'; the message for a missing one says which.  A speaker is a voice with a speed,
a pitch and a level, drawn with --seed; the same command gives the same bytes, whatever --workers.
Lines without text on either side, or without anything to pronounce, are left out on both sides and
counted.  A run that was interrupted goes on where it stopped when the same command is given again.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cress_svcd.cli.arguments import add_voice_arguments, thread_count
from cress_svcd.data.corpus.parallel_text import ParallelText, read_parallel
from cress_svcd.data.synthesis.speech_options import ENCODINGS, SpeechOptions
from cress_svcd.errors import ConfigError

if TYPE_CHECKING:
    from cress_svcd.data.synthesis.espeak import Catalogue
    from cress_svcd.data.synthesis.spoken_corpus import ReleaseSummary

_DEFAULTS = SpeechOptions("en", "", (), ())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "SOURCE", "TARGET"),
        help="a split and its two line-aligned text files; once for each split "
        "(MuST-C has train, dev, tst-COMMON, tst-HE)",
    )
    parser.add_argument("--tgt-lang", required=True, metavar="LANG", help="e.g. de")
    parser.add_argument(
        "--source-lang", default=_DEFAULTS.source_lang, metavar="LANG", help="default: %(default)s"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder of the release")
    parser.add_argument(
        "--format",
        choices=list(ENCODINGS),
        default=_DEFAULTS.audio_format,
        help="wav (16 bit, read fastest), flac (the same samples in half the space) "
        "or ogg (Vorbis, lossy, a seventh); default: %(default)s",
    )
    parser.add_argument(
        "--segments-per-file",
        type=int,
        default=_DEFAULTS.segments_per_file,
        metavar="N",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="replace tabs and other control characters in the text by spaces; else an error",
    )
    parser.add_argument(
        "--phones", action="store_true", help="also write when each phone begins, as targets"
    )
    add_voice_arguments(parser)
    parser.add_argument(
        "--workers",
        type=thread_count,
        default=os.cpu_count(),
        metavar="N",
        help="processes; default: one a core (%(default)s here)",
    )
    parser.add_argument(
        "--force", action="store_true", help="make the splits again, over what is there"
    )


def run(args: argparse.Namespace) -> int:
    from cress_svcd.data.synthesis.spoken_corpus import (
        installed_catalogue,
        make_release,
        speaking_pool,
    )

    if args.workers < 1:
        raise ConfigError(f"--workers {args.workers}: expected at least 1")
    _check_places(args)
    texts = _read_texts(args.split, args.clean)
    with speaking_pool(args.workers) as pool:
        catalogue = installed_catalogue(pool)
        options = _options(args, catalogue)
        summary = make_release(args.output, texts, options, catalogue, pool, args.force)
    _report(texts, summary)
    return 0


def _check_places(args: argparse.Namespace) -> None:
    """Raises ConfigError where a text lies in the very folder that its split is written to."""
    for name, *files in args.split:
        folder = args.output / f"{args.source_lang}-{args.tgt_lang}" / "data" / name
        for file in files:
            if folder.resolve() in Path(file).resolve().parents:
                raise ConfigError(
                    f"--split {name}: {file} lies where the split is written to; name another "
                    "folder with -o"
                )


def _read_texts(splits: list[list[str]], clean: bool) -> list[ParallelText]:
    names = [name for name, _, _ in splits]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--split {name} is given {names.count(name)} times; expected once")
    return [read_parallel(*split, clean=clean) for split in splits]


def _options(args: argparse.Namespace, catalogue: "Catalogue") -> SpeechOptions:
    from cress_svcd.data.synthesis.speech import default_voices
    from cress_svcd.data.synthesis.synthesisers import resolve

    if args.voices:
        voices = tuple(resolve(voice, catalogue) for voice in args.voices)
    else:
        voices = default_voices(args.source_lang, catalogue)
    test_voices = tuple(resolve(voice, catalogue) for voice in args.test_voices or ()) or voices
    return SpeechOptions(
        source_lang=args.source_lang,
        target_lang=args.tgt_lang,
        voices=voices,
        test_voices=test_voices,
        rate=tuple(args.rate),
        pitch=tuple(args.pitch),
        gain_db=tuple(args.gain),
        noise_snr_db=args.noise,
        speaker_per=args.speaker_per,
        segments_per_file=args.segments_per_file,
        audio_format=args.format,
        seed=args.seed,
        phones=args.phones,
    )


def _report(texts: list[ParallelText], summary: "ReleaseSummary") -> None:
    for text, split in zip(texts, summary.splits, strict=True):
        skipped = ", ".join(f"{count} {reason}" for reason, count in split.skipped.items() if count)
        kept = "" if split.new_samples else " (was there already)"
        print(
            f"{split.split}: {split.segments} segments, {split.hours:.2f} hours, "
            f"{split.speakers} speakers; left out: {skipped or 'none'}; "
            f"cleaned: {text.n_cleaned or 'none'}{kept}"
        )
    print(f"{summary.seconds:.1f} s, {summary.times_real_time:.0f} x real time")
    print(f"The release is in {summary.folder}; next: cress-svcd prepare-mustc")
