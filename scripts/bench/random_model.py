"""The model of the benchmarks: HuBERT-Base's dimensions, 6 + 6 layers of 512, random weights."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from noise import noise as noise

from cress_svcd.atomic_files import write_text

PACKED = {
    "packed": ["--int8-embeddings", "--int8-convolutions"],
    "packed_bf16": ["--int8-embeddings", "--int8-convolutions", "--bf16-convolutions"],
    "packed_4_bits": ["--embedding-bits", "4", "--hubert-bits", "4", "--subsampler-bits", "4"],
    # HuBERT's convolutions, subsampler, embeddings.
    **{
        f"packed_{h}_{s}_{e}": ["--hubert-bits", h, "--subsampler-bits", s, "--embedding-bits", e]
        for h, s, e in ("333", "222", "212", "211")
    },
}
VOCABULARY = 10_000
HUBERT_BASE = {
    "_name": "hubert",
    "label_rate": 50,
    "extractor_mode": "default",
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "final_dim": 256,
}


def make_models(
    folder: Path, methods: Iterable[str], packed: Mapping[str, list[str]] = PACKED
) -> dict[str, Path]:
    """Checkpoints of the random model: name of the method -> file; made once in ``folder``.

    Args:
        packed: options of pack for the methods that are packed; the others share the plain file.
    """
    files = {
        name: folder / ("model.pt" if name not in packed else f"{name}.pt") for name in methods
    }
    if all(file.exists() for file in files.values()):
        return files
    from cress_svcd.cli.main import main as command
    from cress_svcd.quantization import LayerSpec, Policy, Rule, apply_policy, quantization_map

    write_vocabulary(folder)
    model, model_cfg, task = random_model(folder)
    save(folder / "model.pt", model, model_cfg, task, {})
    layers = "decoder.layers.*", "encoder.layers.*", "encoder.hubert.encoder.layers.*"
    apply_policy(model, Policy((Rule(layers, LayerSpec("svcd", {"init": "row"})),)))
    quantized = folder / "quantized.pt"
    save(quantized, model, model_cfg, task, quantization_map(model))
    for name in files.keys() & packed.keys():
        options = ["--json", str(folder / f"{name}.json"), *packed[name]]
        command(["pack", str(quantized), "-o", str(files[name]), *options])
    quantized.unlink()
    return files


def write_vocabulary(folder: Path) -> None:
    """The dictionary, and the config that names it."""
    entries = "".join(f"piece{number} 1\n" for number in range(VOCABULARY - 4))
    write_text(folder / "dictionary.txt", entries)
    write_text(
        folder / "config.yaml",
        "vocab_filename: dictionary.txt\nuse_audio_input: true\nsrc_lang: en\ntgt_lang: de\n",
    )


def random_model(folder: Path) -> tuple[Any, Any, Any]:
    """The model with its options, and the task, whose vocabulary lies in ``folder``."""
    from fairseq import tasks
    from omegaconf import OmegaConf

    import cress_svcd  # noqa: F401 - registers the plug-in
    from cress_svcd.models.hubert_checkpoint import HubertDescription
    from cress_svcd.models.hubert_transformer_config import HubertTransformerConfig
    from cress_svcd.tasks.options import SpeechAndTextTranslationConfig

    description = HubertDescription(HUBERT_BASE, False, 16_000, 50.0, (504,))
    model_cfg = OmegaConf.structured(
        HubertTransformerConfig(
            _name="hubert_transformer",
            hubert_description=description.to_json(),
            max_source_positions=1024,
            max_target_positions=1024,
        )
    )
    options = SpeechAndTextTranslationConfig(
        _name="speech_and_text_translation",
        data=str(folder),
        save_dir="",
        restore_file="",
        cpu=True,
        ddp_backend="no_c10d",
        find_unused_parameters=False,
        distributed_world_size=1,
    )
    torch.manual_seed(0)
    task = tasks.setup_task(OmegaConf.create({"task": OmegaConf.structured(options)}).task)
    return task.build_model(model_cfg), model_cfg, task


def save(path: Path, model: Any, model_cfg: Any, task: Any, quantization: dict) -> None:
    """A checkpoint as fairseq-train writes it, without an optimizer's state."""
    from omegaconf import OmegaConf

    from cress_svcd.atomic_files import write_checkpoint

    model_options = OmegaConf.to_container(model_cfg, enum_to_str=True)
    task_options = {
        "_name": "speech_and_text_translation",
        "data": str(path.parent),
        "config_yaml": "config.yaml",
    }
    optimized = {
        "num_updates": 0,
        "criterion_name": "",
        "optimizer_name": "",
        "lr_scheduler_state": {},
    }
    state = {
        "args": None,
        "cfg": {
            "task": task_options,
            "model": {**model_options, "quantization_map": json.dumps(quantization)},
        },
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [optimized],
        "task_state": task.state_dict(),
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    write_checkpoint(path, state)


def fix_length(translator, tokens: int) -> None:
    """Have every translation take ``tokens`` tokens."""
    generator = translator.generator
    generator.min_len = generator.max_len_b = tokens
    generator.max_len_a = 0
