"""Builds HuBERT checkpoints in the released form, of any size, with fairseq's own model."""

from pathlib import Path

import torch
from fairseq.data import Dictionary
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from omegaconf import OmegaConf

SMALL = {
    "_name": "hubert",
    "label_rate": 50,
    "extractor_mode": "default",
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "final_dim": 16,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "untie_final_proj": True,
    "encoder_layerdrop": 0.05,
    "feature_grad_mult": 0.1,
}
TASK = {
    "_name": "hubert_pretraining",
    "data": "/a/path/of/the/authors",
    "labels": ["layer6.km500"],
    "label_rate": 50,
    "normalize": False,
    "sample_rate": 16_000,
}


def make_hubert(path: Path, model: dict | None = None, task: dict | None = None) -> HubertModel:
    """Write a checkpoint with random weights to ``path``; return fairseq's model of it."""
    dictionary = Dictionary(extra_special_symbols=None)
    for unit in range(20):
        dictionary.add_symbol(str(unit))
    model_cfg = {**SMALL, **(model or {})}
    task_cfg = {**TASK, **(task or {})}
    schema = OmegaConf.structured(HubertConfig)
    known = {key: value for key, value in model_cfg.items() if key in schema}
    cfg = OmegaConf.merge(schema, known)
    torch.manual_seed(7)
    hubert = HubertModel(cfg, OmegaConf.structured(HubertPretrainingConfig(data="")), [dictionary])
    for parameter in hubert.parameters():
        # Released weights are not at their initial values; norms and biases in particular.
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    state = {
        "args": None,
        "cfg": {"task": task_cfg, "model": model_cfg},
        "model": hubert.state_dict(),
        "criterion": None,
        "optimizer_history": [
            {
                "num_updates": 1,
                "criterion_name": "HubertCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {},
            }
        ],
        "task_state": {"dictionaries": [dictionary]},
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    torch.save(state, path)
    return hubert.eval()
