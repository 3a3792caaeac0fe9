"""Options of a tiny training, and what fairseq's commands make of them, in this process."""

import argparse
from pathlib import Path

import torch
from fairseq import options, tasks
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import OmegaConf

TINY_MODEL = [
    "--encoder-layers",
    "1",
    "--decoder-layers",
    "1",
    "--encoder-embed-dim",
    "32",
    "--decoder-embed-dim",
    "32",
    "--encoder-ffn-embed-dim",
    "48",
    "--decoder-ffn-embed-dim",
    "48",
    "--encoder-attention-heads",
    "2",
    "--decoder-attention-heads",
    "2",
    "--conv-channels",
    "24",
]
NO_DROPOUT = [
    "--dropout",
    "0",
    "--attention-dropout",
    "0",
    "--activation-dropout",
    "0",
    "--hubert-dropout",
    "0",
]
TASK = [
    "--task",
    "speech_and_text_translation",
    "--criterion",
    "speech_and_text_translation",
    "--train-subset",
    "train",
    "--valid-subset",
    "dev",
]


def parse(data: Path, *flags, arch: str = "hubert_transformer") -> argparse.Namespace:
    """``task``, ``model`` and ``criterion``: the configurations of a ``fairseq-train`` command.

    fairseq's own way from the parsed options to them composes everything it knows, and takes most
    of a second.
    """
    command = [data, *TASK, "--arch", arch, *TINY_MODEL, "--max-tokens", "100000", "--cpu", *flags]
    parser = options.get_training_parser()
    parsed = options.parse_args_and_arch(parser, [str(item) for item in command])
    chosen = {
        "task": (TASK_DATACLASS_REGISTRY, parsed.task),
        "model": (MODEL_DATACLASS_REGISTRY, arch),
        "criterion": (CRITERION_DATACLASS_REGISTRY, parsed.criterion),
    }
    configs = {}
    for key, (registry, name) in chosen.items():
        configs[key] = OmegaConf.structured(registry[name].from_namespace(parsed))
        configs[key]._name = name
    return argparse.Namespace(**configs)


def make_task(data: Path, *flags):
    """The task of a ``fairseq-train`` command over ``data``."""
    return tasks.setup_task(parse(data, *flags).task)


def make_model(cfg: argparse.Namespace, task) -> torch.nn.Module:
    """The model of ``cfg``, the same at every call."""
    torch.manual_seed(3)
    return task.build_model(cfg.model)


def save_checkpoint(path: Path, cfg: argparse.Namespace, task, model: torch.nn.Module) -> Path:
    """Write ``model`` as fairseq-train does, without an optimizer's state."""
    sections = {
        key: OmegaConf.to_container(section, resolve=False, enum_to_str=True)
        for key, section in (("task", cfg.task), ("model", cfg.model))
    }
    state = {
        "args": None,
        "cfg": {**sections, "checkpoint": {}, "criterion": None},
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [
            {
                "num_updates": 3,
                "criterion_name": "x",
                "optimizer_name": "y",
                "lr_scheduler_state": {},
            }
        ],
        "task_state": task.state_dict(),
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    torch.save(state, path)
    return path


def save_start(prepared, hubert, path, *flags):
    """A full-precision model, its text side perturbed, as a checkpoint at ``path``; the model."""
    cfg, task = parse(prepared, "--hubert-model-path", hubert, *flags), make_task(prepared, *flags)
    model = make_model(cfg, task)
    for name, parameter in model.named_parameters():
        if name.startswith(("encoder.layer", "encoder.sub", "decoder.layer")):
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    built_with = OmegaConf.to_container(cfg.model, resolve=True, enum_to_str=True)
    state = {"model": model.state_dict(), "task_state": task.state_dict()}
    torch.save({**state, "cfg": {"model": built_with}}, path)
    return model
