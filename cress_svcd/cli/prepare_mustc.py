"""Prepare a speech translation corpus in the layout of MuST-C v1 for training.

example:
  cress-svcd prepare-mustc MUSTC_v1.0 -o data/en-de --tgt-lang de --text-data

reads (RELEASE_ROOT may be the folder that holds en-de, or en-de itself):
  en-de/data/{train,dev,tst-COMMON,tst-HE}/txt/SPLIT.{yaml,en,de}   line-aligned
  en-de/data/{train,dev,tst-COMMON,tst-HE}/wav                      wav, flac, ogg or npy

writes into OUT:
  SPLIT.tsv                          one segment a line; audio is file:offset:frames
  spm_unigram10000.{model,vocab}     joint sentencepiece model of English and the target language
  spm_unigram10000.txt               the same tokens as a fairseq dictionary
  config.yaml                        what fairseq needs to know (--config-yaml)
  summary.json                       hours, segments, what was dropped and why
  binary/                            with --text-data: both texts in fairseq's binary format

Audio may have any sampling rate and several channels; it is converted when it is read.  A yaml may
name a file that lies in a sub-folder, or has another suffix by now.  An .npy file holds a waveform
at 16 kHz: a talk, or a single segment under its name in the yaml or its id (ted_767_12.npy).

Segments without text on either side or shorter than --min-frames are dropped, those longer than
--max-frames from the training split only: a test set must keep its sentences.  A release that
contradicts itself (missing files, different numbers of lines, broken rows, segments past the end
of their talk) is an error, and so is a recording that proves silent or broken where some of its
segments are decoded (--no-audio-samples leaves that out).  --check-audio decodes every segment and
drops those that are silent, unreadable, not finite or past the end.

--tgt-lang de,ro makes one corpus of several target languages, for a model of all of them: SPLIT.tsv
has the segments of all, SPLIT_XX.tsv those of one (of all splits but train), the vocabulary is one,
with a tag <lang:XX> for each language, with which its translations begin.

A second run does only what has changed since; --force does everything again.
"""

import argparse
import os
from pathlib import Path

from cress_svcd.cli.arguments import thread_count
from cress_svcd.data.corpus.corpora import CORPORA
from cress_svcd.data.corpus.prepare_options import PrepareOptions
from cress_svcd.data.corpus.split_report import Limits

DEFAULT_TEXT_FOLDER = "binary"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = PrepareOptions("")
    parser.add_argument("release", type=Path, metavar="RELEASE_ROOT", help="the unpacked release")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write to"
    )
    parser.add_argument(
        "--tgt-lang",
        required=True,
        metavar="XX[,YY...]",
        help="de es fr it nl pt ro ru, or any other; several, with commas, in one corpus",
    )
    parser.add_argument(
        "--corpus",
        default=defaults.corpus,
        metavar="NAME",
        help=f"layout of the release: {', '.join(CORPORA)} (default: %(default)s)",
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        metavar="SPLIT",
        help="splits to prepare (default: train dev tst-COMMON tst-HE, as far as they exist)",
    )
    add_vocabulary_arguments(parser.add_argument_group("vocabulary"), defaults)
    parser.add_argument(
        "--text-data",
        nargs="?",
        type=Path,
        const=True,
        metavar="DIR",
        help="write the texts in fairseq's binary format too (DIR defaults to OUT/binary)",
    )
    add_audio_arguments(parser.add_argument_group("audio"), defaults)
    parser.add_argument(
        "--workers",
        type=thread_count,
        default=os.cpu_count(),
        metavar="N",
        help="parallel threads and processes (default: all cores)",
    )
    parser.add_argument("--force", action="store_true", help="prepare again what is up to date")


def add_vocabulary_arguments(vocabulary: argparse._ArgumentGroup, defaults: PrepareOptions) -> None:
    vocabulary.add_argument(
        "--vocab-size",
        type=int,
        default=defaults.vocab_size,
        metavar="N",
        help="tokens of the joint unigram model (default: %(default)s)",
    )
    vocabulary.add_argument(
        "--spm-model",
        type=Path,
        metavar="FILE",
        help="use this sentencepiece model instead of training one (DeltaLM's, for example, or "
        "that of 'cress-svcd prune-vocabulary')",
    )
    vocabulary.add_argument(
        "--dictionary",
        type=Path,
        metavar="FILE",
        help="fairseq dictionary of --spm-model (default: made from its tokens)",
    )


def add_audio_arguments(audio: argparse._ArgumentGroup, defaults: PrepareOptions) -> None:
    audio.add_argument(
        "--min-frames",
        type=int,
        default=defaults.limits.min_frames,
        metavar="N",
        help="drop shorter segments; in samples at 16 kHz (default: %(default)s)",
    )
    audio.add_argument(
        "--max-frames",
        type=int,
        default=defaults.limits.max_frames,
        metavar="N",
        help="drop longer training segments; in samples at 16 kHz (default: %(default)s)",
    )
    audio.add_argument(
        "--standardize-audio",
        action="store_true",
        help="have training normalise each segment to zero mean and unit variance; only for "
        "encoders pretrained that way (HuBERT-Base was not)",
    )
    audio.add_argument(
        "--check-audio",
        action="store_true",
        help="decode every segment; drop and count those that cannot be used",
    )
    audio.add_argument(
        "--no-audio-samples",
        action="store_true",
        help="do not decode any segment: believe that recordings hold sound",
    )


def run(args: argparse.Namespace) -> None:
    from cress_svcd.data.corpus.preparation import prepare
    from cress_svcd.data.corpus.summary_table import format_summary

    text_data = args.output / DEFAULT_TEXT_FOLDER if args.text_data is True else args.text_data
    options = PrepareOptions(
        tgt_lang=args.tgt_lang,
        corpus=args.corpus,
        splits=args.splits,
        vocab_size=args.vocab_size,
        spm_model=args.spm_model,
        dictionary=args.dictionary,
        text_data=text_data,
        limits=Limits(args.min_frames, args.max_frames),
        standardize_audio=args.standardize_audio,
        check_audio=args.check_audio,
        sample_audio=not args.no_audio_samples,
        workers=args.workers,
        force=args.force,
    )
    print(format_summary(prepare(args.release, args.output, options), args.output))
