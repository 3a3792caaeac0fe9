"""Segments of longer recordings, with frame labels and transcripts, for HuBERT pretraining."""

import numpy as np
import torch
from fairseq.data import HubertDataset
from torch import Tensor
from torch.nn import functional as F

from cress_svcd.data.augmentation.transforms import AudioTransforms
from cress_svcd.data.batch_shapes import BatchShapes, ShapedBatches
from cress_svcd.data.cut_variation import CutSegments, CutVariation, Surroundings
from cress_svcd.data.dataset import SHAPE_MULTIPLE, PackedStrings, round_up

LETTER_MULTIPLE = 64  # to which letters are padded where their number is not known of a length


class SegmentHubertDataset(CutSegments, ShapedBatches, HubertDataset):
    """fairseq's dataset over ``path:offset:frames`` segments, each read by seeking.

    fairseq reads whole files of the model's sampling rate only; here every format and rate will do.

    Args:
        manifest_path, sample_rate, label_paths, ...: as of ``HubertDataset``; ``label_rates`` is a
            list with a rate for each kind of label, -1 for letters.
        length_multiple: batches are padded to a multiple of so many samples; only for a model that
            takes the padding's exact length, which fairseq's own does not.
        cuts: vary the cuts of the segments, in each epoch otherwise; frames beyond a segment have
            the label of padding.
        neighbours: let in what stands next to a segment in its file.
        transforms: make the segments sound otherwise in each epoch; labels of frames follow their
            speed.
        batch_shapes: lengths to which batches are padded (:class:`BatchShapes`), letters and units
            with them; 0: any.  Only with ``pad_audio``.

    Indexing raises AudioError for audio that cannot be read, and ManifestError where it is not as
    long as the manifest says, by which batches are filled.
    """

    def __init__(
        self,
        manifest_path: str,
        sample_rate: int,
        label_paths: list[str],
        length_multiple: int = 1,
        cuts: CutVariation | None = None,
        neighbours: bool = True,
        batch_shapes: int = 0,
        transforms: AudioTransforms | None = None,
        **options,
    ):
        super().__init__(manifest_path, sample_rate, label_paths, store_labels=False, **options)
        self.length_multiple, self.manifest_path = length_multiple, manifest_path
        # Python lists would be copied into each data-loading worker.
        self.audio_names = PackedStrings(self.audio_names)
        self.sizes = np.array(self.sizes, dtype=np.int64)
        self.label_offsets_list = [
            np.array(offsets, dtype=np.int64).reshape(-1, 2) for offsets in self.label_offsets_list
        ]
        self.cuts, self.n_frames, self.transforms = cuts, self.sizes, transforms
        if cuts is not None:
            self.surroundings = Surroundings(self.audio_names, neighbours)
        self.set_epoch(self.epoch)
        if batch_shapes:
            # Of the first epoch's cuts, whichever epoch training goes on in.
            self.token_counts = self._letters()
            self.shapes = BatchShapes.choose(
                self.lengths, self.token_counts, batch_shapes, SHAPE_MULTIPLE, token_shapes=1
            )

    def _letters(self) -> np.ndarray:
        """Letters of each segment's transcript; none without transcripts."""
        counts = np.zeros(len(self.sizes), dtype=np.int64)
        for path, offsets, rate in zip(self.label_paths, self.label_offsets_list, self.label_rates):
            if rate <= 0:
                with open(path, "rb") as file:
                    for place, (start, end) in enumerate(offsets):
                        file.seek(start)
                        counts[place] = len(file.read(end - start).split())
        return counts

    @property
    def lengths(self) -> np.ndarray:
        """Samples of each segment as it is cut in this epoch, and cropped."""
        return np.minimum(self.sizes, self.max_sample_size)

    def set_epoch(self, epoch: int) -> None:
        """Cut the segments as in this epoch, and let them sound so."""
        if self.cuts is not None:
            self.epoch = epoch
            self.plan = self.cuts.plan(epoch, self.n_frames, self.max_sample_size)
        self.draw_speeds(epoch, self.max_sample_size)
        self.sizes = self.epoch_lengths

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Whether the batches of one epoch are those of all."""
        return self.cuts is None and self.transforms is None

    def get_audio(self, index: int) -> Tensor:
        """The waveform of a segment, float32 of shape (samples,)."""
        wave = self.read_segment(self.audio_names[index], index, f"{self.manifest_path}: ")
        return self.postprocess(torch.from_numpy(wave), self.sample_rate)

    def collater_audio(self, audios: list[Tensor], audio_size: int) -> tuple:
        if self.shapes is None:
            padded = round_up(audio_size, self.length_multiple)
        else:
            padded, _ = self.shapes.shape(audio_size, 0)
        return super().collater_audio(audios, padded)

    def collater_label(self, targets_by_label: list, audio_size: int, audio_starts: list) -> tuple:
        """fairseq's; with ``batch_shapes`` as long as the batch's shape says."""
        labels, lengths, counts = super().collater_label(targets_by_label, audio_size, audio_starts)
        if self.shapes is None:
            return labels, lengths, counts
        most = max((int(lengths[i].max()) for i in self._letter_places), default=0)
        samples, letters = self.shapes.shape(audio_size, 0)
        if most > letters:
            # More than the first epoch had at this length: cuts move segments between lengths.
            letters = round_up(most, LETTER_MULTIPLE)
        padded = []
        for of_kind, rate, pad in zip(labels, self.label_rates, self.pad_list):
            wanted = letters if rate <= 0 else round(samples * rate / self.sample_rate)
            missing = max(0, wanted - of_kind.size(1))
            padded.append(F.pad(of_kind, (0, missing), value=pad))
        return padded, lengths, counts

    @property
    def _letter_places(self) -> list[int]:
        return [place for place, rate in enumerate(self.label_rates) if rate <= 0]

    def get_label(self, index: int, label_idx: int) -> Tensor:
        """The labels of a segment as dictionary indices.

        fairseq's offsets count bytes, yet it reads as many characters: in a file with letters
        beyond ASCII that is the wrong place.
        """
        start, end = self.label_offsets_list[label_idx][index]
        with open(self.label_paths[label_idx], "rb") as file:
            file.seek(start)
            text = file.read(end - start).decode("utf-8")
        labels = self.label_processors[label_idx](text).long()
        if self.label_rates[label_idx] <= 0:
            return labels
        if self.plan is not None:
            rate, pad = self.label_rates[label_idx], self.pad_list[label_idx]
            labels = self._move(labels, rate, index, pad)
        return labels if self.speeds is None else at_speed(labels, float(self.speeds[index]))

    def _move(self, labels: Tensor, rate: float, index: int, pad: int) -> Tensor:
        """Labels of frames as the segment is cut in this epoch."""
        edges = (self.plan.before[index], self.plan.after[index])
        before, after = (round(int(edge) * rate / self.sample_rate) for edge in edges)
        kept = labels[max(0, -before) : len(labels) - max(0, -after)]
        return F.pad(kept, (max(0, before), max(0, after)), value=pad)


def at_speed(labels: Tensor, speed: float) -> Tensor:
    """Labels of frames, (frames,), of what is said so much faster."""
    frames = round(len(labels) / speed)
    places = ((torch.arange(frames) + 0.5) * speed).long()
    return labels[places.clamp(max=max(0, len(labels) - 1))]
