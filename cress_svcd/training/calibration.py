"""Fitting a quantised model's scales to training data, between conversion and training."""

import logging
import os
from collections.abc import Callable

import numpy as np
import torch
from fairseq.modules import MultiheadAttention
from fairseq.tasks import FairseqTask
from fairseq.utils import move_to_cuda
from torch import nn
from tqdm import tqdm

from cress_svcd.errors import ConfigError
from cress_svcd.models.attention import call_projections
from cress_svcd.models.trained import load_trained
from cress_svcd.quantization import quantized_layers
from cress_svcd.quantization.calibration import fit_model

logger = logging.getLogger(__name__)

TOGETHER = 8
"""Examples in a batch, which are cut to the shortest of them: in padding a layer would be fitted to
what nobody hears.  Neighbours in the length of their translation, since frames are plenty and words
are few."""


def is_resumed(save_dir: str, restore_file: str) -> bool:
    """Whether fairseq will find a checkpoint to resume this training from."""
    return os.path.exists(os.path.join(save_dir, restore_file))


def calibrate(
    model: nn.Module,
    start: str | None,
    task: FairseqTask,
    dataset,
    count: int,
    cpu: bool,
    fit: Callable[..., list[str]] = fit_model,
) -> None:
    """Fit the scales of ``model``'s layers so that they meet the full-precision model.

    Args:
        model: just converted, on the CPU.
        start: checkpoint of the full-precision model that it comes from.
        task: of both.
        dataset: of the training; ``count`` examples, evenly spaced in it, are used, cut to the
            shortest of a batch.
        cpu: not to use a GPU, even if there is one.
        fit: ``fit_model``, or ``start_from_inputs``.

    Raises:
        ConfigError: there is no initial checkpoint, it is quantised in part, or the examples do
            not run through a quantised layer.
    """
    full = _full_model(model, start, task)
    on_gpu = torch.cuda.is_available() and not cpu
    device = torch.device("cuda" if on_gpu else "cpu")
    full.to(device)
    for module in full.modules():
        if isinstance(module, MultiheadAttention):
            call_projections(module)
    padding = task.target_dictionary.pad()
    inputs = [
        move_to_cuda(each) if on_gpu else each for each in batches_of(dataset, count, padding)
    ]
    training = model.training
    model.to(device).eval()
    runs = len(quantized_layers(model)) + 1 if fit is fit_model else 1
    with tqdm(total=runs, desc="fitting", unit="run", disable=None) as progress:

        def run(either: nn.Module) -> None:
            for each in inputs:
                either(**each)
            progress.update()

        try:
            fitted = fit(model, full, run)
        except ValueError as error:
            raise ConfigError(
                f"--quant-calibrate: {error}; with --feature-cache of the output of a frozen "
                "HuBERT its layers do not run"
            ) from None
    model.to("cpu").train(training)
    examples = sum(len(each["src_tokens"]) for each in inputs)
    logger.info("fitted the scales of %d layers to %d examples", len(fitted), examples)


def _full_model(model: nn.Module, start: str | None, task: FairseqTask) -> nn.Module:
    if not start:
        raise ConfigError("--quant-calibrate needs --finetuned-st-model, which it is to meet")
    if model.begun_quantized:
        raise ConfigError(
            "--quant-calibrate fits scales to a full-precision model, and --finetuned-st-model "
            f"{start} is quantised in part: leave --quant-calibrate out"
        )
    return load_trained(start, task)


def batches_of(dataset, count: int, padding: int) -> list[dict]:
    """What a model is called with for ``count`` examples: speech with its transcripts, or text
    where a training has no speech.

    The batches come in random order: of a layer's inputs the first some thousand are kept.
    """
    dataset = getattr(dataset, "datasets", [dataset])[0]
    rows = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    examples = sorted((dataset[int(row)] for row in rows), key=lambda each: len(each["target"]))
    inputs = []
    for first in range(0, len(examples), TOGETHER):
        batch = dataset.collater(examples[first : first + TOGETHER])
        source, text = batch["net_input"], batch.get("source_text") or {}
        length = int(source["src_lengths"].min())
        words = _without_padding(text.get("src_tokens"), padding)
        lengths = None if words is None else torch.full((len(words),), words.size(1))
        inputs.append(
            {
                "src_tokens": source["src_tokens"][:, :length],
                "src_lengths": torch.full_like(source["src_lengths"], length),
                "prev_output_tokens": _without_padding(source["prev_output_tokens"], padding),
                "text_tokens": words,
                "text_lengths": lengths,
            }
        )
    return [inputs[place] for place in np.random.default_rng(0).permutation(len(inputs))]


def _without_padding(tokens: torch.Tensor | None, padding: int) -> torch.Tensor | None:
    """(batch, time) of the shortest row."""
    return None if tokens is None else tokens[:, : int(tokens.ne(padding).sum(1).min())]
