"""Translate recordings with a trained model: files, folders or standard input.

  cress-svcd translate runs/st/averaged.pt talk.flac
  cress-svcd translate model.pt interview.mp3 --output-format srt -o interview.srt
  cress-svcd translate model.pt recordings/ --output-format vtt -o subtitles/
  cress-svcd translate model.pt recordings/ --output-format jsonl -o translations.jsonl
  ffmpeg -i film.mkv -f wav - | cress-svcd translate model.pt -
  find . -name '*.ogg' | cress-svcd translate model.pt --from-list
  echo 'the man sees water.' | cress-svcd translate model.pt --text

A recording may have any length, rate and number of channels, in any format that libsndfile reads
(wav, flac, ogg with Vorbis or Opus, mp3, aiff, ...), or be a waveform in .npy.  It is cut at its
pauses; one of at most --max-segment-seconds that has none is translated whole, as by
fairseq-generate.  The checkpoint may be any that fairseq-generate takes.  Its vocabulary is
looked for where it was trained, then beside it; --data names another folder.

Output, as it is made: text has a line for each segment; jsonl an object for each:
  source    the recording as it was named
  segment   number of the segment in it, from 0
  start,    seconds from the beginning of the recording
  end
  text      the translation
  score     its log-probability in base 2 over its length ** lenpen, as fairseq-generate prints it
  tokens    its pieces of the vocabulary
srt and vtt are subtitles, a cue for each segment.  With -o FOLDER/ each recording has a file there.

What cannot be read is told on standard error, and the rest goes on.  The status is 0 if all went
well, 1 if some recordings could not be translated, 2 if none could or the command is wrong.
"""

import argparse
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from cress_svcd.data.audio import SUFFIXES, audio_info
from cress_svcd.errors import AudioError, ConfigError, CressError
from cress_svcd.kernels import BACKENDS
from cress_svcd.translation.output import (
    FORMATS,
    FileEach,
    OneStream,
    Output,
    Source,
    discard_standard_output,
    open_stream,
)
from cress_svcd.translation.recordings import Segment, read_segments
from cress_svcd.translation.segmentation import Segmentation
from cress_svcd.translation.translator import BATCH_SECONDS, Translator

STDIN = "-"
# Sentences that are translated together.
TEXT_WINDOW = 512


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
        "--output-format", choices=list(FORMATS), default="text", help="default: %(default)s"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE|FOLDER/",
        help="a file (it appears when all is done), or a folder for a file for each recording "
        "(subtitles of several recordings need one); default: standard output",
    )
    _add_search_arguments(parser)
    _add_segmentation_arguments(parser)


def _add_search_arguments(parser: argparse.ArgumentParser) -> None:
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
        "and told at once",
    )
    group.add_argument(
        "--device", metavar="NAME", help="cpu, cuda or cuda:N; default: a GPU if there is one"
    )
    group.add_argument("--fp16", action="store_true", help="compute in half precision")
    group.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads; default: as torch chooses"
    )
    group.add_argument(
        "--backend",
        choices=("auto", *BACKENDS),
        default="auto",
        help="what computes the packed layers (default: %(default)s, the best that there is)",
    )


def _add_segmentation_arguments(parser: argparse.ArgumentParser) -> None:
    default = Segmentation()
    group = parser.add_argument_group("cutting of recordings")
    group.add_argument(
        "--no-segmentation", action="store_true", help="translate each recording as one segment"
    )
    for option, value, unit, what in (
        ("--max-segment-seconds", default.max_seconds, "S", "longest segment"),
        ("--min-segment-seconds", default.min_seconds, "S", "shorter speech joins its neighbour"),
        ("--pause-seconds", default.pause_seconds, "S", "silence that separates segments"),
        ("--threshold-db", default.threshold_db, "DB", "speech begins so far above the noise"),
    ):
        group.add_argument(
            option, type=float, default=value, metavar=unit, help=f"{what} (default: %(default)s)"
        )


@dataclass
class Progress:
    """The sources so far, by number, what became of them, and the bar."""

    bar: tqdm
    sources: list[Source] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    silent: int = 0

    def begin(self, source: Source) -> int:
        self.sources.append(source)
        return len(self.sources) - 1

    def fail(self, number: int, error: Exception) -> None:
        self.failed.add(number)
        source = self.sources[number]
        reason, read_from = str(error), f"{source.path}:"
        # As the user named it, where the message begins with the place that it was read from.
        if reason.startswith(read_from):
            reason = f"{source.name}:{reason.removeprefix(read_from)}"
        self.tell(f"error: {reason}")

    def tell(self, message: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            print(f"cress-svcd translate: {message}", file=sys.stderr)

    def status(self) -> int:
        """Of the command, with a word about what was left out.

        Raises:
            AudioError: nothing could be translated.
        """
        count, failed = len(self.sources), len(self.failed)
        if failed == count > 0:
            raise AudioError(f"none of {count} inputs could be translated; the reasons stand above")
        if self.silent:
            self.tell(f"nothing was heard in {self.silent} of {count} recordings")
        if failed:
            self.tell(f"{failed} of {count} inputs could not be translated")
        return 1 if failed else 0


def run(args: argparse.Namespace) -> int:
    if args.text and args.from_list:
        raise ConfigError("--text and --from-list: give one of them")
    if not args.inputs and sys.stdin.isatty():
        raise ConfigError("nothing to translate: name recordings or a folder, or pipe one in")
    inputs = args.inputs or [STDIN]
    folder = output_folder(args, inputs)
    segmentation = None
    if not args.no_segmentation:
        segmentation = Segmentation(
            args.max_segment_seconds,
            args.min_segment_seconds,
            args.pause_seconds,
            args.threshold_db,
        )
    # fairseq describes the speech encoder at length, and torch the future of what it calls.
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)
    translator = Translator.load(
        args.model,
        data=args.data,
        device=args.device,
        beam=args.beam,
        lenpen=args.lenpen,
        max_len_b=args.max_len_b,
        threads=args.threads,
        backend=args.backend,
        fp16=args.fp16,
        batch_seconds=args.batch_seconds,
        segmentation=segmentation,
    )
    translate = translate_text if args.text else translate_speech
    try:
        with contextlib.ExitStack() as stack:
            sources = list_sources(args, inputs, stack)
            bar = stack.enter_context(progress_bar(args, sources))
            if folder:
                output: Output = FileEach(folder, FORMATS[args.output_format])
            else:
                stream = stack.enter_context(open_stream(args.output))
                output = OneStream(stream, FORMATS[args.output_format]())
            progress = Progress(bar)
            translate(translator, sources, output, progress)
            return progress.status()
    except BrokenPipeError:
        discard_standard_output()  # the reader (head, less) has had enough
        return 0


def output_folder(args: argparse.Namespace, inputs: list[str]) -> Path | None:
    """The folder for a file for each recording; None: everything goes into one stream.

    Raises:
        ConfigError: subtitles of several recordings in one stream or file, or of text.
    """
    timed = FORMATS[args.output_format].timed
    if args.text and timed:
        raise ConfigError(f"--output-format {args.output_format}: text has no times; take jsonl")
    output = args.output
    if output and (output.endswith(os.sep) or Path(output).is_dir()):
        return Path(output)
    several = args.from_list or len(inputs) > 1 or Path(inputs[0]).is_dir()
    if not (timed and several):
        return None
    names_file = output and Path(output).suffix.lower() == FORMATS[args.output_format].suffix
    if not output or names_file or Path(output).exists():
        raise ConfigError(
            f"--output-format {args.output_format}: several recordings need a file each; give "
            "-o FOLDER/" + (f" ({output} is a file)" if output else "")
        )
    return Path(output)


def list_sources(
    args: argparse.Namespace, inputs: list[str], stack: contextlib.ExitStack
) -> Iterable[Source]:
    """What the inputs name, in their order; lists are read as they are used."""
    if args.text:
        stems = [Path("stdin" if name == STDIN else Path(name).stem) for name in inputs]
        return [Source(name, Path(name), stem) for name, stem in zip(inputs, stems)]
    if args.from_list:
        return (source for name in read_lists(inputs) for source in expand(name))
    sources = []
    for name in inputs:
        if name == STDIN:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cress-svcd-"))
            path = Path(folder) / "stdin"
            # Audio is read by seeking, which a pipe cannot.
            with open(path, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            sources.append(Source("standard input", path, Path("stdin")))
        else:
            sources += expand(name)
    return sources


def read_lists(lists: Iterable[str]) -> Iterator[str]:
    for name in lists:
        for line in read_lines(name):
            if line.strip():
                yield line.strip()


def read_lines(name: str) -> Iterator[str]:
    """Lines of a text file, or of standard input.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = sys.stdin.buffer if name == STDIN else stack.enter_context(open(name, "rb"))
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{name}:{number}: is not UTF-8 ({error.reason})") from None


def expand(name: str) -> list[Source]:
    """A file, whether it is there or not; or all audio below a folder, in the order of names.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    if not path.is_dir():
        return [Source(name, path, Path(path.stem))]
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    if not files:
        raise ConfigError(f"{name}: no recording below it; looked for {' '.join(sorted(SUFFIXES))}")
    return [Source(str(file), file, file.relative_to(path).with_suffix("")) for file in files]


def progress_bar(args: argparse.Namespace, sources: Iterable[Source]) -> tqdm:
    """Of sentences, or of seconds of sound, whose sum is known unless it comes in a list."""
    if args.text:
        return tqdm(desc="translating", unit=" sentences", disable=None)
    total = None
    if isinstance(sources, list):
        total = round(sum(duration(source.path) for source in sources))
    return tqdm(total=total, desc="translating", unit=" s of audio", disable=None)


def duration(path: Path) -> float:
    """Seconds of a recording; 0 if it cannot be used, which its turn will tell."""
    try:
        info = audio_info(path)
    except AudioError:
        return 0.0
    return info.frames / info.sample_rate


def translate_speech(
    translator: Translator, sources: Iterable[Source], output: Output, progress: Progress
) -> None:
    def segments() -> Iterator[Segment]:
        for source in sources:
            number = progress.begin(source)
            count = 0
            try:
                output.begin(source)
                for segment in read_segments(
                    source.path, None, translator.segmentation, recording=number
                ):
                    count += 1
                    yield segment
            except CressError as error:
                progress.fail(number, error)
            else:
                if not count:
                    progress.silent += 1
                    progress.tell(f"{source.name}: nothing is heard above its noise")

    done, reached = 0, 0.0
    for segment, translation in translator.translate_segments(segments()):
        for number in range(done, segment.recording):
            output.finish(progress.sources[number], number in progress.failed)
            reached = 0.0
        done = segment.recording
        output.write(progress.sources[done], translation)
        progress.bar.update(round(segment.end) - round(reached))
        reached = segment.end
    for number in range(done, len(progress.sources)):
        output.finish(progress.sources[number], number in progress.failed)
    if progress.bar.total:  # the silence after the last words
        progress.bar.update(progress.bar.total - progress.bar.n)


def translate_text(
    translator: Translator, sources: Iterable[Source], output: Output, progress: Progress
) -> None:
    at_once = TEXT_WINDOW if translator.batch_seconds else 1
    for source in sources:
        number = progress.begin(source)
        try:
            output.begin(source)
            for sentences in chunks(read_lines(source.name), at_once):
                for translation in translator.translate_text(sentences):
                    output.write(source, translation)
                progress.bar.update(len(sentences))
        except CressError as error:
            progress.fail(number, error)
        output.finish(source, number in progress.failed)


def chunks(lines: Iterator[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
