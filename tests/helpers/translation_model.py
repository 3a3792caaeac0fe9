"""A small model that says something else about each recording, without any training."""

from pathlib import Path

import torch

from tests.helpers.training_options import make_model, make_task, parse, save_checkpoint


def make_checkpoint(path: Path, data: Path, hubert: Path | None, *flags) -> Path:
    """Write a checkpoint with random weights, large enough that its words differ."""
    speech = ["--hubert-model-path", hubert] if hubert else ["--mt-finetune"]
    cfg = parse(data, *speech, *flags)
    task = make_task(data, *(flags if hubert else [*speech, *flags]))
    model = make_model(cfg, task)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if not name.startswith("encoder.hubert"):
            parameter.data.add_(torch.randn(parameter.shape, generator=generator))
    return save_checkpoint(path, cfg, task, model)
