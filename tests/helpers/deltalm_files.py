"""DeltaLM checkpoints in the released form, and models of them without a data folder."""

from argparse import Namespace
from pathlib import Path

import torch
from fairseq.data import Dictionary
from torch import nn

from cress_svcd.models.hubert_deltalm import HubertDeltaLM, HubertDeltaLMConfig

TINY = Path(__file__).parents[1] / "fixtures" / "deltalm_tiny.pt"
"""Written by the original code: 120 rows, 32 wide, 4 heads, 3 and 2 layers, 40 positions."""
EXPECTED = TINY.with_name("deltalm_tiny_expected.npz")
TINY_HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}


def dictionary(entries: int) -> Dictionary:
    result = Dictionary()
    while len(result) < entries:
        result.add_symbol(f"▁piece{len(result)}")
    return result


def build(path=TINY, entries: int = 100, digest: str = "digest", **options) -> HubertDeltaLM:
    """The model of a DeltaLM file, over a dictionary of ``entries``; in eval mode."""
    symbols = dictionary(entries)
    task = Namespace(src_dict=symbols, tgt_dict=symbols)
    cfg = config(path, **options)
    HubertDeltaLM.complete_config(cfg)
    torch.manual_seed(3)
    model = HubertDeltaLM.build_model(cfg, task)
    model.load_pretrained(cfg, digest)
    model.cfg = cfg
    return model.eval()


def config(path=TINY, **options) -> HubertDeltaLMConfig:
    positions = {"max_source_positions": 1024, "max_target_positions": 1024}
    heads = TINY_HEADS if path == TINY else {}
    path = None if path is None else str(path)
    return HubertDeltaLMConfig(deltalm_model_path=path, **{**positions, **heads, **options})


def released_names(
    encoder_layers: int,
    decoder_layers: int,
    width: int,
    inner: int,
    rows: int,
    positions: int,
    layernorm_embedding: bool,
) -> dict[str, tuple[int, ...]]:
    """Name → shape of each tensor of a released file."""
    attention = [f"{name}_proj" for name in ("q", "k", "v", "out")]
    norms = ["self_attn_layer_norm", "final_layer_norm"]
    shapes: dict[str, tuple[int, ...]] = {}

    def add_linear(name: str, shape: tuple[int, int]) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def add_norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def add_ffn(name: str) -> None:
        add_linear(f"{name}.fc1", (inner, width))
        add_linear(f"{name}.fc2", (width, inner))

    for side in ("src", "tgt"):
        shapes[f"{side}_embedding.embed_tokens.weight"] = (rows, width)
        shapes[f"{side}_embedding.embed_positions.weight"] = (positions + 2, width)
        if layernorm_embedding:
            add_norm(f"{side}_embedding.emb_layer_norm")
    for layer in range(encoder_layers):
        prefix = f"encoder.layers.{layer}"
        for name in attention:
            add_linear(f"{prefix}.self_attn.{name}", (width, width))
        add_ffn(f"{prefix}.ffn")
        for name in norms:
            add_norm(f"{prefix}.{name}")
    for layer in range(decoder_layers):
        prefix = f"decoder.layers.{layer}"
        for name in attention:
            add_linear(f"{prefix}.self_attn.{name}", (width, width))
            add_linear(f"{prefix}.encoder_attn.{name}", (width, width))
        add_ffn(f"{prefix}.ffn_1")
        add_ffn(f"{prefix}.ffn_2")
        for name in [*norms, "encoder_attn_layer_norm", "ffn_layer_norm"]:
            add_norm(f"{prefix}.{name}")
    return shapes


def make_deltalm(
    path: Path,
    encoder_layers: int = 2,
    decoder_layers: int = 1,
    width: int = 64,
    inner: int = 96,
    rows: int = 104,
    positions: int = 20,
    layernorm_embedding: bool = True,
    shared: bool = True,
) -> dict[str, torch.Tensor]:
    """Write a released file with random weights to ``path``; return its tensors."""
    generator = torch.Generator().manual_seed(5)
    shapes = released_names(
        encoder_layers, decoder_layers, width, inner, rows, positions, layernorm_embedding
    )
    weights = {
        name: 0.2 * torch.randn(shape, generator=generator) + name.endswith("norm.weight")
        for name, shape in shapes.items()
    }
    if shared:
        weights["tgt_embedding.embed_tokens.weight"] = weights["src_embedding.embed_tokens.weight"]
    torch.save({"weights": weights}, path)
    return weights


def save_finetuned(model: nn.Module, path: Path, **extra) -> Path:
    """Write ``model`` as fairseq does: key ``model``, and its options under ``cfg``."""
    options = {"model": dict(vars(model.cfg))}
    torch.save({"model": model.state_dict(), "cfg": options, **extra}, path)
    return path
