"""Translating many inputs: what is written where, what failed, how far it is."""

import argparse
import collections
import itertools
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from cress_svcd.atomic_files import is_full
from cress_svcd.data.corpus.text import is_visible
from cress_svcd.errors import AudioError, ConfigError, CressError
from cress_svcd.translation.inputs import Unusable, duration, read_lines
from cress_svcd.translation.output import Output, Source
from cress_svcd.translation.progress import SoundProgress
from cress_svcd.translation.recordings import Segment, read_segments
from cress_svcd.translation.result import Translation, Wanted
from cress_svcd.translation.segmentation.energy import EnergySegmenter

if TYPE_CHECKING:
    from cress_svcd.translation.native import NativeTranslator
    from cress_svcd.translation.translator import Translator

logger = logging.getLogger(__name__)

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
        if not isinstance(error, CressError):
            # Of a library, with an input of a kind that nobody has thought of.
            logger.debug("%s", source.name, exc_info=error)
            first = next(iter(reason.strip().splitlines()), "no details")
            reason = f"{source.name}: {type(error).__name__}: {first}"
        # As the user named it, where the message begins with the place that it was read from.
        elif reason.startswith(read_from):
            reason = f"{source.name}:{reason.removeprefix(read_from)}"
        self.tell(f"error: {reason}")

    def tell(self, message: str) -> None:
        # Names of files may hold bytes that are no text, and whatever moves the cursor.
        text = message.encode("utf-8", "backslashreplace").decode("utf-8")
        shown = re.sub(r"[\x00-\x1f\x7f]", lambda control: repr(control[0])[1:-1], text)
        with tqdm.external_write_mode(file=sys.stderr):
            sys.stderr.write(f"cress-svcd translate: {shown}\n")

    def status(self) -> int:
        """Of the command, with a word about what was left out.

        Raises:
            AudioError: nothing could be translated.
        """
        count, failed = len(self.sources), len(self.failed)
        if not count:
            self.tell("nothing to translate: no input is named")
        if failed == count > 0:
            raise AudioError(f"none of {count} inputs could be translated; the reasons stand above")
        if self.silent:
            self.tell(f"nothing was heard in {self.silent} of {count} recordings")
        if failed:
            self.tell(f"{failed} of {count} inputs could not be translated")
        return 1 if failed or self.silent == count else 0


def progress_bar(args: argparse.Namespace, sources: Iterable[Source]) -> tqdm:
    """Of sentences, or of seconds of sound, whose sum is known unless it comes in a list."""
    if args.text:
        return tqdm(desc="translating", unit=" sentences", disable=None)
    total = None
    # Where nobody looks, the first translation need not wait until all lengths are known.
    if isinstance(sources, list) and sys.stderr.isatty():
        total = round(sum(duration(source.path) for source in sources))
    return SoundProgress(total, desc="translating", disable=None)


def translate_speech(
    translator: "Translator | NativeTranslator",
    sources: Iterable[Source],
    output: Output,
    progress: Progress,
) -> None:
    """Translate recordings; what fails with one of them is reported, and the rest goes on.

    Raises:
        CressError: nothing at all can be translated by this model, or the disk is full.
    """

    def segments() -> Iterator[Segment]:
        for source in sources:
            number = progress.begin(source)
            count = 0
            try:
                require_usable(source)
                output.begin(source)
                for segment in read_segments(
                    source.path, None, translator.segmentation, recording=number
                ):
                    count += 1
                    yield segment
                    if number in progress.failed:
                        break
            except Exception as error:
                progress.fail(number, error)
            else:
                if not count:
                    progress.silent += 1
                    progress.tell(f"{source.name}: {nothing_heard(translator)}")

    done, reached = 0, 0.0
    for segment, translation in translate_whatever_can_be(translator, segments(), progress):
        for number in range(done, segment.recording):
            finish(output, number, progress)
            reached = 0.0
        done = segment.recording
        output.write(progress.sources[done], translation)
        progress.bar.update(round(segment.end) - round(reached))
        reached = segment.end
    for number in range(done, len(progress.sources)):
        finish(output, number, progress)
    if progress.bar.total:  # the silence after the last words
        progress.bar.update(progress.bar.total - progress.bar.n)


class Failures(Protocol):
    """Hears of the recordings with which something fails."""

    def fail(self, number: Any, error: Exception) -> None:
        """``number``: ``Segment.recording``."""


def translate_whatever_can_be(
    translator: "Translator | NativeTranslator",
    segments: Iterator[Segment],
    failures: Failures,
    wanted: Wanted | None = None,
) -> Iterator[tuple[Segment, Translation]]:
    """The segments with their translations, in order, but for those of recordings with which the
    translator fails.

    Args:
        wanted: see :meth:`Translator.translate_segments`.
    """
    waiting: collections.deque[Segment] = collections.deque()

    def taken() -> Iterator[Segment]:
        for segment in segments:
            waiting.append(segment)
            yield segment

    while True:
        try:
            for segment, translation in translator.translate_segments(taken(), wanted):
                waiting.popleft()
                yield segment, translation
            return
        except Exception:
            if not waiting:
                raise  # of the model rather than of a recording
        # Recordings are translated together: which one was it?
        together = list(waiting)
        waiting.clear()
        for number, group in itertools.groupby(together, lambda segment: segment.recording):
            try:
                yield from list(translator.translate_segments(group, wanted))
            except Exception as error:
                failures.fail(number, error)


def nothing_heard(translator: "Translator | NativeTranslator") -> str:
    """What to say of a recording in which nothing is heard."""
    words = "nothing is heard above its noise; --no-segmentation translates it all the same"
    if isinstance(translator.segmentation, EnergySegmenter):
        threshold = translator.segmentation.options.threshold_db
        words += f", a --threshold-db below {threshold:g} hears what is less loud"
    return words


def require_usable(source: Source) -> None:
    if isinstance(source, Unusable):
        raise ConfigError(f"{source.name}: {source.reason}")


def finish(output: Output, number: int, progress: Progress) -> None:
    """Write what is to be written of a source when it is complete.

    Raises:
        OutputError, OSError: the disk is full, or the stream cannot be written to.
    """
    try:
        output.finish(progress.sources[number], number in progress.failed)
    except OSError:
        raise
    except Exception as error:
        if is_full(error):
            raise
        progress.fail(number, error)


def translate_text(
    translator: "Translator", sources: Iterable[Source], output: Output, progress: Progress
) -> None:
    at_once = BUFFERED_LINES if translator.batch_seconds else 1
    for source in sources:
        number = progress.begin(source)
        try:
            output.begin(source)
            for sentences in chunks(read_lines(source.name), at_once):
                seen = [sentence if is_visible(sentence) else "" for sentence in sentences]
                for translation in translator.translate_text(seen):
                    output.write(source, translation)
                progress.bar.update(len(sentences))
        except OSError:  # of the output
            raise
        except Exception as error:
            progress.fail(number, error)
        finish(output, number, progress)


def chunks(lines: Iterator[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
