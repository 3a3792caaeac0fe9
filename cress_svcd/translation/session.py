"""Translating many inputs: what is written where, what failed, how far it is."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from cress_svcd.errors import AudioError, CressError
from cress_svcd.translation.inputs import duration, read_lines
from cress_svcd.translation.output import Output, Source
from cress_svcd.translation.progress import SoundProgress
from cress_svcd.translation.recordings import Segment, read_segments
from cress_svcd.translation.translator import Translator

# Sentences that are translated together.
BUFFERED_LINES = 512


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
            sys.stderr.write(f"cress-svcd translate: {message}\n")

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


def progress_bar(args: argparse.Namespace, sources: Iterable[Source]) -> tqdm:
    """Of sentences, or of seconds of sound, whose sum is known unless it comes in a list."""
    if args.text:
        return tqdm(desc="translating", unit=" sentences", disable=None)
    total = None
    if isinstance(sources, list):
        total = round(sum(duration(source.path) for source in sources))
    return SoundProgress(total, desc="translating", disable=None)


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
    at_once = BUFFERED_LINES if translator.batch_seconds else 1
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
