"""From segments to recordings: what all translators share."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from cress_svcd.translation.recordings import Audio, Segment, read_segments
from cress_svcd.translation.result import Translation, Wanted, join

if TYPE_CHECKING:
    from cress_svcd.translation.segmentation.base import Segmenter


EVERY = "*"  # for target_lang: chosen later, by ``for_language``


class RecordingTranslator:
    """Translates recordings by their segments.

    segmentation: what cuts them; None: each is one segment.
    languages: codes of the target languages.
    source_language: code of the language that is spoken; en, say.
    continues: a segment's translation can be made to begin with given tokens (``Segment.prefix``).
    batched: several segments are translated in less time together than one after the other.
    """

    segmentation: "Segmenter | None"
    source_language: str
    languages: list[str]
    continues = True
    batched = True

    def for_language(self, language: str) -> "RecordingTranslator":
        """The same model, translating to another one of its languages.

        Raises:
            ConfigError: it has not this one.
        """
        raise NotImplementedError

    def require_speech(self) -> None:
        """Raise ConfigError if the model was trained on text only."""
        raise NotImplementedError

    def token_number(self, token: str) -> int:
        """The place of a token in the vocabulary."""
        raise NotImplementedError

    def text_of(self, tokens: Sequence[str]) -> str:
        """The text that tokens of a translation stand for."""
        raise NotImplementedError

    def translate_segments(
        self, segments: Iterable[Segment], wanted: Wanted | None = None
    ) -> Iterator[tuple[Segment, Translation]]:
        """Translate segments in their order.

        Args:
            wanted: what to find of these; None: as the translator was loaded.
        """
        raise NotImplementedError

    def report(self) -> str:
        """A line about what repeated itself so far; empty if nothing did."""
        raise NotImplementedError

    def translate(self, audio: Audio, sampling_rate: int | None = None) -> Translation:
        """Translate a recording: a file, or samples (see :func:`mono_waveform`).

        A long one is cut at its pauses; ``segments`` of the result has the parts.

        Args:
            audio: path of a file that libsndfile reads, or a waveform.
            sampling_rate: of a waveform; default: 16,000.
        Raises:
            AudioError: the recording cannot be used.
            ConfigError: the model was trained on text only.
        """
        return self.translate_batch([audio], sampling_rate)[0]

    def translate_batch(
        self, audios: Iterable[Audio], sampling_rate: int | None = None
    ) -> list[Translation]:
        """Translate several recordings, their parts together in batches; see :meth:`translate`."""
        audios = list(audios)
        parts: list[list[Translation]] = [[] for _ in audios]
        segments = (
            segment
            for number, audio in enumerate(audios)
            for segment in read_segments(audio, sampling_rate, self.segmentation, number)
        )
        for segment, translation in self.translate_segments(segments):
            parts[segment.recording].append(translation)
        return [join(part) for part in parts]
