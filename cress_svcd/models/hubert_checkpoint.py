"""Reading HuBERT checkpoints: the model's tensors, and a description to build it from."""

import ast
import dataclasses
import json
import math
import operator
import os

from omegaconf import OmegaConf
from torch import Tensor

from cress_svcd.data.feature_cache import file_digest
from cress_svcd.errors import CheckpointError
from cress_svcd.models.checkpoints import read_checkpoint, shorten
from cress_svcd.models.hubert_huggingface import SAMPLE_RATE, files_in, read_folder

IN_TRANSLATION_MODEL = "encoder.hubert."  # what the encoder's tensors are called there


def parse_conv_layers(text: str) -> list[tuple[int, int, int]]:
    """Evaluate HuBERT's ``conv_feature_layers`` without executing it.

    The field is a Python expression such as ``[(512,10,5)] + [(512,3,2)] * 4``; it comes from a
    file, and fairseq passes it to ``eval``.  Only lists, tuples, integers, ``+`` and ``*`` are
    read here.

    Returns:
        (channels, kernel, stride) of each convolution.
    Raises:
        CheckpointError: it is anything else.
    """
    operators = {ast.Add: operator.add, ast.Mult: operator.mul}

    def value(node: ast.AST):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.List):
            return [value(item) for item in node.elts]
        if isinstance(node, ast.Tuple):
            return tuple(value(item) for item in node.elts)
        if isinstance(node, ast.BinOp) and type(node.op) in operators:
            return operators[type(node.op)](value(node.left), value(node.right))
        raise ValueError(f"{type(node).__name__} is not allowed")

    try:
        layers = value(ast.parse(text, mode="eval").body)
        if not layers or not all(
            isinstance(layer, tuple) and len(layer) == 3 and all(n > 0 for n in layer)
            for layer in layers
        ):
            raise ValueError("expected a list of (channels, kernel, stride)")
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise CheckpointError(
            f"conv_feature_layers: {text[:80]!r} is not a list of convolutions ({error}); "
            "expected for example '[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2'"
        ) from None
    return layers


def receptive_field(layers: list[tuple[int, int, int]]) -> int:
    """Samples that the first frame of convolutions (channels, kernel, stride) sees."""
    field, jump = 1, 1
    for _, kernel, stride in layers:
        field += (kernel - 1) * jump
        jump *= stride
    return field


def frame_stride(layers: list[tuple[int, int, int]]) -> int:
    """Samples from one frame of convolutions (channels, kernel, stride) to the next."""
    return math.prod(stride for _, _, stride in layers)


@dataclasses.dataclass(frozen=True)
class HubertDescription:
    """All that is needed to build the encoder again without its file."""

    model: dict
    normalize: bool
    sample_rate: int
    label_rate: float
    label_sizes: tuple[int, ...]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "HubertDescription":
        fields = json.loads(text)
        return cls(**{**fields, "label_sizes": tuple(fields["label_sizes"])})


def _plain(config) -> dict:
    if OmegaConf.is_config(config):
        return OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return dict(vars(config)) if hasattr(config, "__dict__") else dict(config)


def hubert_digest(path: str | os.PathLike) -> str:
    """Identity of what ``read_hubert`` reads.

    Raises:
        OSError: it cannot be read.
        CheckpointError: a folder without a HuBERT.
    """
    if not os.path.isdir(path):
        return file_digest(path)
    return "-".join(map(file_digest, files_in(path)))


def read_hubert(path: str | os.PathLike) -> tuple[HubertDescription, dict[str, Tensor]]:
    """Read a HuBERT checkpoint as fairseq's pretraining writes it (or as released).

    A speech translation checkpoint gives the speech encoder that was trained with it; a folder is
    read as Hugging Face stores HuBERT (``hubert_huggingface``).

    Returns:
        the description, and the model's tensors by name.
    Raises:
        CheckpointError: not a checkpoint, not of a HuBERT model, or damaged.
    """
    if os.path.isdir(path):
        model, normalize, tensors = read_folder(path)
        rate = model["label_rate"]
        return HubertDescription(model, normalize, SAMPLE_RATE, rate, ()), tensors
    state = read_checkpoint(path)
    if not isinstance(state.get("cfg"), dict) or "model" not in state:
        raise CheckpointError(
            f"{path}: no 'cfg' and 'model' in it (found: {shorten(sorted(map(str, state)))}); "
            "expected a HuBERT checkpoint of fairseq, e.g. hubert_base_ls960.pt, or the output of "
            "'cress-svcd pretrain-hubert'"
        )
    model = _plain(state["cfg"]["model"])
    if model.get("hubert_description"):
        tensors = {
            name.removeprefix(IN_TRANSLATION_MODEL): tensor
            for name, tensor in state["model"].items()
            if name.startswith(IN_TRANSLATION_MODEL)
        }
        return HubertDescription.from_json(model["hubert_description"]), tensors
    task = _plain(state["cfg"].get("task") or {})
    if model.get("_name") != "hubert":
        raise CheckpointError(
            f"{path}: cfg.model._name is {model.get('_name')!r}, expected 'hubert'. A checkpoint "
            "of another model cannot serve as --hubert-model-path."
        )
    dictionaries = (state.get("task_state") or {}).get("dictionaries") or []
    description = HubertDescription(
        model={key: value for key, value in model.items() if key != "w2v_path"},
        normalize=bool(task.get("normalize", False)),
        sample_rate=int(task.get("sample_rate", 16_000)),
        label_rate=float(model.get("label_rate") or task.get("label_rate") or 50),
        label_sizes=tuple(len(dictionary) for dictionary in dictionaries if dictionary),
    )
    return description, dict(state["model"])
