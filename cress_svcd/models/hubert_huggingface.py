"""HuBERT as Hugging Face stores it: a folder with config.json and the tensors.

The tensors are in model.safetensors or pytorch_model.bin.  Names and configuration are translated
into those of fairseq's HuBERT, which computes the same (Hsu et al. 2021, arXiv:2106.07447).  Of a
model with a head (HubertForCTC) the speech encoder is taken.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cress_svcd.atomic_files import read_json
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.checkpoint_files import explained
from cress_svcd.models.checkpoint_structure import require_sound

CONFIG, SAFETENSORS, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
PREPROCESSING = "preprocessor_config.json"
SAMPLE_RATE = 16_000
HEADED = "hubert."  # before the encoder's tensors in a model with a head
# Where fairseq's HuBERT has no choice: key, and the value that it has.
FIXED: dict[str, Any] = {
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "layer_norm_eps": 1e-5,
    "conv_pos_batch_norm": False,
}
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
)
PROBABILITIES = {
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "feat_proj_dropout": "dropout_input",
    "layerdrop": "encoder_layerdrop",
}
POSITIONS = r"encoder\.pos_conv_embed\.conv\."
NAMES = (
    (r"masked_spec_embed", r"mask_emb"),
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"feature_projection\.layer_norm\.", r"layer_norm."),
    (r"feature_projection\.projection\.", r"post_extract_proj."),
    (rf"{POSITIONS}parametrizations\.weight\.original0", r"encoder.pos_conv.0.weight_g"),
    (rf"{POSITIONS}parametrizations\.weight\.original1", r"encoder.pos_conv.0.weight_v"),
    (POSITIONS, r"encoder.pos_conv.0."),
    (r"encoder\.layers\.(\d+)\.attention\.", r"encoder.layers.\1.self_attn."),
    (r"encoder\.layers\.(\d+)\.layer_norm\.", r"encoder.layers.\1.self_attn_layer_norm."),
    (r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.", r"encoder.layers.\1.fc1."),
    (r"encoder\.layers\.(\d+)\.feed_forward\.output_dense\.", r"encoder.layers.\1.fc2."),
)
CONV_NORM = r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\."


def files_in(folder: str | os.PathLike) -> tuple[Path, Path]:
    """The files of configuration and tensors in ``folder``; safetensors where both are there.

    Raises:
        CheckpointError: it lacks one.
    """
    config = Path(folder, CONFIG)
    weights = [path for name in (SAFETENSORS, PICKLED) if (path := Path(folder, name)).is_file()]
    if not weights or not config.is_file():
        missing = CONFIG if weights else f"neither {SAFETENSORS} nor {PICKLED}"
        raise CheckpointError(
            f"{folder}: {'no ' if weights else ''}{missing} in this folder; expected HuBERT as "
            f"Hugging Face stores it ({CONFIG}, and the tensors in one file), or the file of a "
            "checkpoint of fairseq"
        )
    return config, weights[0]


def read_folder(folder: str | os.PathLike) -> tuple[dict[str, Any], bool, dict[str, Tensor]]:
    """The HuBERT in ``folder``, in fairseq's words.

    Returns:
        fields of fairseq's ``HubertConfig``; whether waveforms are standardised; tensors by name.
    Raises:
        CheckpointError: a file is missing, damaged, or of another model.
    """
    path, weights = files_in(folder)
    config = _read_keys(path)
    model = _model_fields(config, path)
    tensors = _read_tensors(weights)
    grouped = config.get("feat_extract_norm", "group") == "group"
    tensors = {_fairseq_name(name, grouped): value for name, value in tensors.items()}
    _require_sizes(config, tensors, path, weights)
    # Without biases before the normalisation of each channel over time, neither an offset nor a
    # factor reaches the first layer's output: HuBERT-Base was trained on waveforms as they are.
    normalize = not grouped
    if normalize and (preprocessing := Path(folder, PREPROCESSING)).is_file():
        normalize = bool(_read_keys(preprocessing).get("do_normalize", True))
    return model, normalize, tensors


def _read_keys(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no keys and values; copy it again")
    return content


def _refuse_value(path: Path, key: str, found: Any, expected: str) -> None:
    raise CheckpointError(
        f"{path}: {key} is {found!r:.60}, expected {expected}: it is damaged, or not of a HuBERT "
        "that fairseq's model can compute"
    )


def _model_fields(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """fairseq's fields for the keys of config.json."""
    if config.get("model_type") != "hubert":
        _refuse_value(path, "model_type", config.get("model_type"), "'hubert'")
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            _refuse_value(path, key, config[key], repr(value))
    for key in SIZES:
        if type(config.get(key)) is not int or config[key] < 1:
            _refuse_value(path, key, config.get(key), "a whole number above 0")
    layers = [config.get(key) for key in ("conv_dim", "conv_kernel", "conv_stride")]
    for key, sizes in zip(("conv_dim", "conv_kernel", "conv_stride"), layers):
        whole = isinstance(sizes, list) and all(type(n) is int and n > 0 for n in sizes)
        if not whole or not sizes or len(sizes) != len(layers[0]):
            _refuse_value(path, key, sizes, "a list of whole numbers, one a convolution")
    activation, norm = config.get("hidden_act", "gelu"), config.get("feat_extract_norm", "group")
    if activation not in ("gelu", "relu"):
        _refuse_value(path, "hidden_act", activation, "gelu or relu")
    if norm not in ("group", "layer"):
        _refuse_value(path, "feat_extract_norm", norm, "group or layer")
    if layers[0][-1] == config["hidden_size"]:
        _refuse_value(path, "hidden_size", config["hidden_size"], "another than conv_dim's last")
    fields = {}
    for key, name in PROBABILITIES.items():
        value = config.get(key, 0.0)
        if type(value) not in (int, float) or not 0 <= value <= 1:
            _refuse_value(path, key, value, "a number from 0 to 1")
        fields[name] = float(value)
    return fields | {
        "_name": "hubert",
        "extractor_mode": "default" if norm == "group" else "layer_norm",
        "conv_feature_layers": repr(list(zip(*layers))),
        "conv_bias": bool(config.get("conv_bias", False)),
        "encoder_layers": config["num_hidden_layers"],
        "encoder_embed_dim": config["hidden_size"],
        "encoder_ffn_embed_dim": config["intermediate_size"],
        "encoder_attention_heads": config["num_attention_heads"],
        "activation_fn": activation,
        "layer_norm_first": bool(config.get("do_stable_layer_norm", False)),
        "conv_pos": config["num_conv_pos_embeddings"],
        "conv_pos_groups": config["num_conv_pos_embedding_groups"],
        # As Base and Large were released; Hugging Face's files do not say it.
        "feature_grad_mult": 0.1 if norm == "group" else 1.0,
        "label_rate": SAMPLE_RATE / math.prod(layers[2]),
        "untie_final_proj": True,
    }


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The encoder's tensors in a file, by Hugging Face's names."""
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise CheckpointError(
                f"{path}: needs the package safetensors: pip install 'cress_svcd[huggingface]'"
            ) from None
        with explained(path):
            tensors = load_file(path)
    else:
        with explained(path):
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensors, Mapping):
        raise CheckpointError(
            f"{path}: holds a {type(tensors).__name__}, expected names and tensors, as Hugging "
            "Face's save_pretrained writes them"
        )
    require_sound({"model": dict(tensors)}, path)
    headed = [name for name in tensors if name.startswith(HEADED)]
    if headed:
        return {name.removeprefix(HEADED): tensors[name] for name in headed}
    return dict(tensors)


def _fairseq_name(name: str, grouped: bool) -> str:
    # A block of fairseq's is convolution, dropout, norm, activation; a layer norm stands between
    # two transpositions.
    place = r"feature_extractor.conv_layers.\1.2." + ("" if grouped else "1.")
    for pattern, replacement in (*NAMES, (CONV_NORM, place)):
        renamed, found = re.subn(rf"^{pattern}", replacement, name)
        if found:
            return renamed
    return name


def _require_sizes(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path, weights: Path
) -> None:
    """Raise CheckpointError unless the sizes in config.json are those of the tensors: a model of
    any size must not be built for tensors of another."""
    found: dict[str, Any] = {
        "num_hidden_layers": len({name.split(".")[2] for name in tensors if _LAYER.match(name)}),
        "hidden_size": _size(tensors, "encoder.layer_norm.weight", 0),
        "intermediate_size": _size(tensors, "encoder.layers.0.fc1.weight", 0),
        "num_conv_pos_embeddings": _size(tensors, "encoder.pos_conv.0.weight_v", 2),
    }
    convolutions = [
        tensors.get(f"feature_extractor.conv_layers.{number}.0.weight")
        for number in range(len(config["conv_dim"]))
    ]
    for key, dimension in (("conv_dim", 0), ("conv_kernel", 2)):
        found[key] = [
            None if each is None or each.dim() != 3 else each.shape[dimension]
            for each in convolutions
        ]
    for key, size in found.items():
        if size != config[key]:
            raise CheckpointError(
                f"{path}: {key} is {config[key]}, but {weights.name} next to it has {size}: the "
                "two files are not of one HuBERT; copy both again"
            )
    for key in ("num_attention_heads", "num_conv_pos_embedding_groups"):
        if config["hidden_size"] % config[key]:
            expected = f"a divisor of hidden_size {config['hidden_size']}"
            _refuse_value(path, key, config[key], expected)


_LAYER = re.compile(r"encoder\.layers\.\d+\.")


def _size(tensors: Mapping[str, Tensor], name: str, dimension: int) -> int | None:
    tensor = tensors.get(name)
    return tensor.shape[dimension] if tensor is not None and tensor.dim() > dimension else None
