"""Datasets of the speech and text translation task.

Sentences are encoded once and kept as flat integer arrays, and paths as flat bytes: the workers of
a data loader share such memory, while Python lists would be copied into each of them as soon as
their reference counts change (a corpus has hundreds of thousands of segments).
"""

import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset, LanguagePairDataset, data_utils
from fairseq.data.audio.multi_modality_dataset import MultiModalityDataset
from torch import Tensor

from cress_svcd.data.audio import standardize
from cress_svcd.data.batch_shapes import TOKEN_MULTIPLE, BatchShapes, ShapedBatches
from cress_svcd.data.cut_variation import CutSegments, CutVariation, Surroundings
from cress_svcd.data.feature_cache import FeatureCache
from cress_svcd.data.target_languages import BeginsWithTag
from cress_svcd.errors import ConfigError

if TYPE_CHECKING:
    import pandas  # its import takes a tenth of a second, and translating needs none of it

    from cress_svcd.data.augmentation.transforms import AudioTransforms

logger = logging.getLogger(__name__)

# Beyond this share of unknown tokens a dictionary is not the one of the text.
MOST_UNKNOWN = 0.2


class PackedStrings:
    """An immutable list of strings in one block of bytes."""

    def __init__(self, strings: Iterable[str]):
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        self._ends = np.cumsum([len(item) for item in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        found = self._bytes[start : self._ends[index]].tobytes()
        return found.decode("utf-8", "surrogateescape")


class Places:
    """Where segments stand, for messages; indexing gives ``train.tsv:7: segment ted_1_5``.

    Args:
        manifests: path and ids of each manifest, one after the other; of one whose rows are not all
            there, also their numbers from 0.
    """

    def __init__(self, manifests: Iterable[tuple]):
        ids = [(os.fspath(path), list(names), *rows) for path, names, *rows in manifests]
        self._paths = [path for path, *_ in ids]
        self._ends = np.cumsum([len(names) for _, names, *_ in ids])
        self._ids = PackedStrings(name for _, names, *_ in ids for name in names)
        self._rows = [np.asarray(rows[0]) if rows else None for _, _, *rows in ids]

    def __getitem__(self, index: int) -> str:
        part = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[part - 1]) if part else 0)
        rows = self._rows[part]
        # Lines count from 1, and the first is the header.
        line = (row if rows is None else int(rows[row])) + 2
        return f"{self._paths[part]}:{line}: segment {self._ids[index]}"


class EncodedSentences:
    """Sentences as dictionary indices, end of sentence included; indexing gives LongTensors.

    Args:
        sentences: plain text.
        encode: text → space-separated tokens.
        dictionary: maps tokens to indices.
        what: where the sentences come from, for messages.
    Raises:
        ConfigError: more than a fifth of the tokens is unknown to the dictionary.
    """

    def __init__(
        self,
        sentences: Iterable[str],
        encode: Callable[[str], str],
        dictionary: Dictionary,
        what: str,
    ):
        # As Dictionary.encode_line, in a twelfth of its time.
        indices, unknown, end = dictionary.indices, dictionary.unk(), dictionary.eos()
        arrays = [
            np.array(
                [*(indices.get(token, unknown) for token in encode(sentence).split()), end],
                np.int32,
            )
            for sentence in sentences
        ]
        self.sizes = np.array([len(array) for array in arrays], dtype=np.int64)
        self._ends = np.cumsum(self.sizes)
        self._tokens = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)
        self._report_unknown(dictionary, what)

    def _report_unknown(self, dictionary: Dictionary, what: str) -> None:
        tokens = len(self._tokens) - len(self)
        unknown = int((self._tokens == dictionary.unk()).sum())
        if not unknown:
            return
        share = unknown / max(tokens, 1)
        message = f"{what}: {unknown} of {tokens} tokens ({share:.2%}) unknown to the dictionary"
        if share > MOST_UNKNOWN:
            raise ConfigError(
                f"{message}: it does not belong to this text. Check vocab_filename and "
                "sentencepiece_model in the config, and that both are of this language pair"
            )
        logger.warning(message)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tensor:
        end = self._ends[index]
        return torch.from_numpy(self._tokens[end - self.sizes[index] : end].astype(np.int64))


SAMPLES_A_FRAME = 320  # of HuBERT's features
# To what batches are padded on a GPU, in samples: cuDNN plans each convolution again for a new
# length.
GPU_LENGTH_MULTIPLE = 8000
SHAPE_MULTIPLE = 1600  # of the lengths that --batch-shapes chooses, in samples; whole frames


def round_up(length: int, multiple: int) -> int:
    """The next multiple."""
    return -(-length // multiple) * multiple


class SpeechTranslationDataset(BeginsWithTag, CutSegments, ShapedBatches, FairseqDataset):
    """Segments of speech with their translations, and their transcripts if given.

    Lengths are in samples for the speech (what ``--max-tokens`` counts) and in tokens for texts.

    Args:
        audio: ``path[:offset:frames]`` of each segment.
        n_frames: samples of each at ``sample_rate``.
        targets: encoded translations, or None to translate speech without references.
        sources: encoded transcripts, or None.
        dictionary: of targets and sources (its padding and end-of-sentence indices are used).
        audio_root: folder that relative paths start from.
        normalize: bring each waveform to zero mean and unit variance.
        shuffle: put segments of equal length in a random order.
        length_multiple: batches are padded to a multiple of so many samples (of features: of the
            frames that are made of them).
        places: of the segments, for messages.
        cuts: vary the cuts of the segments, in each epoch otherwise (``set_epoch``).
        batch_shapes: lengths to which batches are padded (:class:`BatchShapes`); 0: any.
        longest: samples that no segment exceeds by what its varied cut adds.
        neighbours: let in what stands next to a segment in its file; False for files that hold
            segments one behind the other.
        features: read in place of audio; of varied cuts the epochs take the variants in turn.
        transforms: make the segments sound otherwise in each epoch; not of ``features``.
        limits: samples, and tokens of translation, beyond which segments will be left out of the
            batches; ``batch_shapes`` are chosen from the others.

    Indexing raises AudioError for audio that cannot be read, and ManifestError where it is not as
    long as ``n_frames`` says, by which batches are filled.
    """

    def __init__(
        self,
        audio: Iterable[str],
        n_frames: Iterable[int],
        targets: EncodedSentences | None,
        sources: EncodedSentences | None,
        dictionary: Dictionary,
        audio_root: str = "",
        normalize: bool = False,
        shuffle: bool = False,
        sample_rate: int = 16_000,
        features: FeatureCache | None = None,
        length_multiple: int = 1,
        places: Places | None = None,
        cuts: CutVariation | None = None,
        longest: int | None = None,
        neighbours: bool = True,
        batch_shapes: int = 0,
        transforms: "AudioTransforms | None" = None,
        limits: tuple[int | None, int | None] = (None, None),
    ):
        self.features = features
        self.cuts, self.longest, self.transforms = cuts, longest, transforms
        self.places = places
        self.length_multiple = length_multiple
        self.audio = PackedStrings(audio)
        self.n_frames = np.asarray(n_frames, dtype=np.int64)
        self.targets = targets
        self.sources = sources
        self.dictionary = dictionary
        self.audio_root = os.fspath(audio_root)
        self.normalize = normalize
        self.shuffle = shuffle
        self.sample_rate = sample_rate
        if cuts is not None and features is None:
            self.surroundings = Surroundings(self.audio, neighbours)
        self.set_epoch(1)
        if batch_shapes:
            # Those of the first epoch's cuts, whichever epoch training goes on in.
            kept, _ = self.filter_indices_by_size(np.arange(len(self)), limits)
            self.shapes = BatchShapes.choose(
                self.lengths[kept], self.token_counts[kept], batch_shapes, SHAPE_MULTIPLE
            )

    def set_epoch(self, epoch: int) -> None:
        """Cut the segments as in this epoch, and let them sound so."""
        if self.cuts is not None:
            self.epoch = epoch
            if self.features is not None:  # which were computed as those of the first epochs
                self.epoch = epoch % self.features.variants
                self.features.choose(self.epoch)
            self.plan = self.cuts.plan(self.epoch, self.n_frames, self.longest)
        self.draw_speeds(epoch, self.longest)

    @property
    def lengths(self) -> np.ndarray:
        """Samples of each segment in this epoch."""
        return self.epoch_lengths

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, index: int) -> dict:
        if self.features is not None:
            wave = self.features[index]
        else:
            place = f"{self.places[index]}: " if self.places else ""
            wave = self.read_segment(self.audio[index], index, place)
            wave = standardize(wave) if self.normalize else wave
        return {
            "id": index,
            "audio": torch.from_numpy(wave),
            "target": self.targets[index] if self.targets else None,
            "source": self.sources[index] if self.sources else None,
        }

    @property
    def sizes(self) -> np.ndarray:
        """(samples, target tokens) of each segment: (segments, 2)."""
        targets = self.targets.sizes if self.targets else np.zeros_like(self.n_frames)
        return np.stack([self.lengths, targets], axis=1)

    def num_tokens(self, index: int) -> int:
        return int(self.lengths[index])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self.lengths[indices]

    def size(self, index: int) -> tuple[int, int]:
        return self.num_tokens(index), int(self.targets.sizes[index]) if self.targets else 0

    def ordered_indices(self) -> np.ndarray:
        """By length, so that batches are padded little; ties in random order when shuffling."""
        order = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))
        return self.repeated(order[np.argsort(self.lengths[order], kind="stable")])

    @property
    def token_counts(self) -> np.ndarray:
        """Of each segment's translation or transcript, whichever has more."""
        sides = [side.sizes for side in (self.targets, self.sources) if side]
        return np.max(sides, axis=0) if sides else np.zeros_like(self.n_frames)

    def filter_indices_by_size(self, indices, max_sizes):
        """Leave out what exceeds ``max_sizes`` (samples, tokens); returns (kept, left out)."""
        if max_sizes is None:
            return indices, []
        limits = [np.inf if limit is None else limit for limit in max_sizes]
        fits = (self.sizes[indices] <= np.array(limits)).all(axis=1)
        return indices[fits], indices[~fits].tolist()

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Whether the batches of one epoch are those of all: also of features in one variant."""
        if self.transforms is not None:
            return False
        return self.plan is None or (self.features is not None and self.features.variants == 1)

    def collater(self, samples: list[dict]) -> dict:
        """A batch: waveforms (batch, samples) or features (batch, time, channels), and texts.

        Audio is padded with zeros, text with the dictionary's padding.
        """
        if not samples:
            return {}
        lengths = torch.tensor([len(sample["audio"]) for sample in samples])
        order = torch.argsort(lengths, descending=True, stable=True)
        samples = [samples[i] for i in order.tolist()]
        lengths = lengths[order]
        padded, tokens = self._padded_shape(samples)
        first = samples[0]["audio"]
        waves = torch.zeros(len(samples), padded, *first.shape[1:], dtype=first.dtype)
        for row, sample in zip(waves, samples):
            row[: len(sample["audio"])] = sample["audio"]
        batch = {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "net_input": {"src_tokens": waves, "src_lengths": lengths},
            "nsentences": len(samples),
            "target": None,
        }
        if self.targets:
            targets = [sample["target"] for sample in samples]
            batch["target"] = self._pad(targets, tokens)
            batch["ntokens"] = sum(len(target) for target in targets)
            batch["net_input"]["prev_output_tokens"] = self._pad(targets, tokens, shift=True)
        if self.sources:
            sources = [sample["source"] for sample in samples]
            batch["source_text"] = {
                "src_tokens": self._pad(sources, tokens),
                "src_lengths": torch.tensor([len(source) for source in sources]),
            }
        return self.with_starts(batch)

    def _padded_shape(self, samples: list[dict]) -> tuple[int, int | None]:
        """Samples of audio, or frames of features, of a batch whose first is the longest; and its
        tokens, None for as many as its longest text has."""
        longest, *dimensions = samples[0]["audio"].shape  # features have two dimensions
        unit = SAMPLES_A_FRAME if dimensions else 1
        if self.shapes is None:
            return round_up(longest, max(1, self.length_multiple // unit)), None
        texts = [sample[side] for sample in samples for side in ("target", "source")]
        tokens = max(len(text) for text in texts if text is not None)
        length, tokens = self.shapes.shape(longest * unit, tokens)
        return length // unit, tokens

    def _pad(self, sentences: list[Tensor], tokens: int | None, shift: bool = False) -> Tensor:
        """(batch, time); with ``shift`` the end of sentence comes first: the decoder's input."""
        return data_utils.collate_tokens(
            sentences,
            self.dictionary.pad(),
            self.dictionary.eos(),
            left_pad=False,
            move_eos_to_beginning=shift,
            pad_to_length=tokens,
        )


class TextTranslationDataset(BeginsWithTag, ShapedBatches, LanguagePairDataset):
    """fairseq's pairs, whose translations may begin with a tag.

    Attributes:
        batch_shapes: lengths to which targets are padded (:class:`BatchShapes`), sources to up to
            TOKEN_SHAPES numbers of tokens within each; 0: batches are as long as their longest.
    """

    batch_shapes = 0

    def batch_by_size(
        self, indices, max_tokens=None, max_sentences=None, required_batch_size_multiple=1
    ):
        """fairseq's, or few shapes, chosen from the pairs that the first batches are made of."""
        if self.batch_shapes and self.shapes is None:
            lengths, tokens = self.lengths[indices], self.token_counts[indices]
            self.shapes = BatchShapes.choose(lengths, tokens, self.batch_shapes, TOKEN_MULTIPLE)
        return super().batch_by_size(
            indices, max_tokens, max_sentences, required_batch_size_multiple
        )

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each pair's source or target, whichever has more, as ``--max-tokens`` counts:
        what targets are padded to."""
        return np.maximum(self.src_sizes, self.tgt_sizes)

    @property
    def token_counts(self) -> np.ndarray:
        """Tokens of each source."""
        return self.src_sizes

    def ordered_indices(self) -> np.ndarray:
        return self.repeated(super().ordered_indices())

    def collater(self, samples: list, pad_to_length: dict | None = None) -> dict:
        if samples and self.shapes is not None:
            sources = max(len(sample["source"]) for sample in samples)
            targets = max(len(sample["target"]) for sample in samples)
            length, tokens = self.shapes.shape(max(sources, targets), sources)
            pad_to_length = {"source": tokens, "target": length}
        return self.with_starts(super().collater(samples, pad_to_length))


def text_dataset(
    sources: EncodedSentences,
    targets: EncodedSentences | None,
    source_dictionary: Dictionary,
    target_dictionary: Dictionary,
    shuffle: bool,
) -> "TextTranslationDataset":
    """Text translation over encoded sentences, padded on the right as speech is."""
    return TextTranslationDataset(
        sources,
        sources.sizes,
        source_dictionary,
        targets,
        targets.sizes if targets else None,
        target_dictionary,
        left_pad_source=False,
        left_pad_target=False,
        shuffle=shuffle,
    )


class OneModeBatches(MultiModalityDataset):
    """Several datasets whose batches hold one mode each, named in ``sample["mode"]``."""

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return all(part.can_reuse_epoch_itr_across_epochs for part in self.datasets)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        for part in self.datasets:
            part.set_epoch(epoch)
        if not self.can_reuse_epoch_itr_across_epochs:
            self.raw_sub_batch_samplers = []  # of other lengths

    def collater(self, samples: list) -> dict:
        batch = super().collater(samples)
        if batch:
            # fairseq puts it where the model would receive it as an argument.
            batch["mode"] = batch["net_input"].pop("mode")
        return batch


def check_language(frame: "pandas.DataFrame", column: str, expected: str | None, path: str) -> None:
    """Refuse a manifest of another language than the one asked for.

    Raises:
        ConfigError: some row of ``column`` (src_lang or tgt_lang) differs from ``expected``.
    """
    if not expected:
        return
    other = sorted(set(frame[column]) - {"", expected})
    if other:
        raise ConfigError(
            f"{path}: column {column} holds {', '.join(other)}, but {expected} was asked for; "
            f"give --{'tgt' if column == 'tgt_lang' else 'source'}-lang {other[0]} or the data "
            f"folder of {expected}"
        )
