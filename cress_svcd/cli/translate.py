"""Translate recordings with a trained model: files, folders or standard input.

  cress-svcd translate runs/st/averaged.pt talk.flac
  cress-svcd translate model.pt interview.mp3 --output-format srt -o interview.srt
  cress-svcd translate model.pt recordings/ --output-format vtt -o subtitles/
  cress-svcd translate model.pt recordings/ --output-format jsonl -o translations.jsonl
  ffmpeg -i film.mkv -f wav - | cress-svcd translate model.pt -
  find . -name '*.ogg' | cress-svcd translate model.pt --from-list
  echo 'the man sees water.' | cress-svcd translate model.pt --text
  cress-svcd translate model.pt talk.flac --output-format jsonl --word-times
  cress-svcd translate runs/st/averaged.pt talk.flac --transcript
  cress-svcd translate model.cress talk.flac --engine native
  cress-svcd translate en-8.pt talk.flac --tgt-lang ro

A recording may have any length, rate and number of channels, in any format that libsndfile reads
(wav, flac, ogg with Vorbis or Opus, mp3, aiff, ...), or be a waveform in .npy.  It is cut at its
pauses; one of at most --max-segment-seconds that has none is translated whole, as by
fairseq-generate.  The checkpoint may be any that fairseq-generate takes.  Its vocabulary is
looked for where it was trained, then next to the checkpoint, in the two folders above it, and in
their folders data; --data names another folder.  A packed model carries its vocabulary.

Output, as it is made: text has a line for each segment; jsonl an object for each:
  source    the recording as it was named
  segment   number of the segment in it, from 0
  start,    seconds from the beginning of the recording
  end
  text      the translation
  score     its log-probability in base 2 over its length ** lenpen, as fairseq-generate prints it
  tokens    its subword tokens
and where there is such a thing
  decoded_again    true: the first translation repeated itself, this is the second
  words            with --word-times: an object for each word, with word, start and end
  transcript       with --transcript: what was said, in the source language
srt, vtt and ttml are subtitles that players and broadcasters accept: of few short lines that stay
long enough, see the limits below; they are written when a recording is complete.  With -o FOLDER/
each recording has a file there.

The model must have been trained on what it is given: text (--text) needs a training with
--mt-finetune or --ext-mt-training, --transcript one with --ctc-head and --ctc-weight.

What cannot be read is reported on standard error, and the rest goes on.  The status is 0 if all
went well, 1 if some recordings could not be translated or nothing is heard in any, 2 if none could
or the command is wrong.  Hidden files below a folder (macOS's ._talk.wav) are left out.
"""

import argparse
import contextlib
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cress_svcd.cli.arguments import (
    add_search_arguments,
    add_segmentation_arguments,
    loading_options,
)
from cress_svcd.cli.engines import add_engine_argument, translator_class
from cress_svcd.cli.logs import shows_notes
from cress_svcd.cli.output_arguments import (
    SUBTITLES,
    add_output_arguments,
    add_subtitle_arguments,
    check_output_arguments,
    subtitle_limits,
)
from cress_svcd.errors import ConfigError

if TYPE_CHECKING:
    from cress_svcd.translation.native import NativeTranslator
    from cress_svcd.translation.translator import Translator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="a trained checkpoint")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="AUDIO|FOLDER|-",
        help="recordings; folders are searched through, in the order of names; - (the default) is "
        "one recording on standard input",
    )
    parser.add_argument(
        "--from-list",
        action="store_true",
        help="the inputs are lists of recordings, a path a line (default: on standard input)",
    )
    parser.add_argument(
        "--text", action="store_true", help="the inputs are text, a sentence a line"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with config.yaml, dictionary and sentencepiece model of the checkpoint",
    )
    parser.add_argument(
        "--tgt-lang", metavar="XX", help="target language, of a model of several: de"
    )
    add_engine_argument(parser)
    add_output_arguments(parser)
    add_search_arguments(parser)
    parser.add_argument(
        "--no-repeat-ngram-size",
        type=int,
        default=0,
        metavar="N",
        help="let no N tokens in a row come twice in a translation; default: %(default)s, they may",
    )
    add_segmentation_arguments(parser)
    add_subtitle_arguments(parser)


def load(args: argparse.Namespace) -> "Translator | NativeTranslator":
    options = dict(
        **loading_options(args),
        no_repeat_ngram_size=args.no_repeat_ngram_size,
        word_times=args.word_times or (args.output_format in SUBTITLES and not args.transcript),
        transcripts=args.transcript,
        translations=not args.transcript or args.output_format == "jsonl",
    )
    return translator_class(args.engine).load(args.model, **options)


def run(args: argparse.Namespace) -> int:
    # Here: --help does not wait for them.
    from cress_svcd.translation.inputs import STDIN, list_sources
    from cress_svcd.translation.output import (
        FORMATS,
        FileEach,
        FormatOptions,
        OneStream,
        Output,
        discard_standard_output,
        not_written_to,
        open_stream,
        output_folder,
    )
    from cress_svcd.translation.session import (
        Progress,
        progress_bar,
        translate_speech,
        translate_text,
    )
    from cress_svcd.translation.subtitles import describe_broken

    if args.text and args.from_list:
        raise ConfigError("--text and --from-list: give one of them")
    check_output_arguments(args)
    options = FormatOptions(subtitle_limits(args), args.word_times, args.transcript)
    inputs = args.inputs or [STDIN]
    if STDIN in inputs and (sys.stdin is None or (not args.inputs and sys.stdin.isatty())):
        raise ConfigError("nothing to translate: name recordings or a folder, or pipe one in")
    folder = output_folder(args, inputs)
    translator = load(args)
    if args.text:
        translator.require_text()
    translate = translate_text if args.text else translate_speech
    try:
        with contextlib.ExitStack() as stack:
            sources = list_sources(args, inputs, stack)
            bar = stack.enter_context(progress_bar(args, sources))
            make_form = functools.partial(FORMATS[args.output_format], options)
            if folder:
                output: Output = FileEach(folder, make_form)
            else:
                stream = stack.enter_context(open_stream(args.output))
                output = OneStream(stream, make_form())
                sources = not_written_to(args.output, sources)
            progress = Progress(bar)
            translate(translator, sources, output, progress)
            broken = describe_broken(options.broken, options.limits)
            notes = (translator.report(), broken) if shows_notes() else ()
            for line in filter(None, notes):
                progress.tell(line)
            return progress.status()
    except BrokenPipeError:
        discard_standard_output()  # the reader (head, less) has had enough
        return 0
