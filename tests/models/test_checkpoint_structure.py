"""A checkpoint with a part of another type is refused by what reads it, in one line."""

import argparse
import dataclasses
import zipfile

import pytest
import torch

from cress_svcd.errors import CheckpointError
from cress_svcd.models.checkpoint_files import explained_model
from cress_svcd.models.checkpoint_structure import refuse_odd_options, require_sound
from cress_svcd.models.checkpoints import read_checkpoint

SOUND = {
    "args": None,
    "cfg": {"model": {"_name": "x", "encoder_layers": 1, "encoder_embed_dim": 2}, "task": {}},
    "model": {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)},
    "optimizer_history": [{"num_updates": 1}],
    "extra_state": {},
    "task_state": {},
}


def with_part(place: str, value) -> dict:
    """The sound one with another value at a dotted place."""
    *parents, last = place.split("/")
    state = {key: dict(part) if isinstance(part, dict) else part for key, part in SOUND.items()}
    node = state
    for parent in parents:
        node[parent] = dict(node[parent])
        node = node[parent]
    node[last] = value
    return state


def test_a_sound_one_is_read(tmp_path):
    torch.save(SOUND, tmp_path / "x.pt")
    assert read_checkpoint(tmp_path / "x.pt").keys() == SOUND.keys()
    require_sound({**SOUND, "args": argparse.Namespace(arch="x"), "cfg": None}, "x.pt")


@pytest.mark.parametrize(
    "place, value, said",
    [
        ("cfg", 2.5, "its 'cfg' is 2.5, expected keys and values"),
        ("cfg/model", "x", "its 'cfg.model' is 'x'"),
        ("extra_state", [1], r"its 'extra_state' is \[1\]"),
        ("optimizer_history", {}, "expected list or tuple"),
        ("optimizer_history", [3], r"'optimizer_history\[0\]' is 3"),
        ("args", {}, "expected Namespace"),
        ("model/weight", 1.5, "weight: is 1.5 and no tensor"),
        (
            "model/weight",
            torch.zeros(1).expand(2**40),
            "weight: says that it has 4,398,046,511,104",
        ),
        ("model/weight", torch.zeros(2, 2).to_sparse(), "weight: is a sparse tensor"),
        ("model/bias", torch.zeros(2, dtype=torch.complex64), "bias: holds complex numbers"),
        ("vocabulary", {"spm.model": 3}, "'vocabulary.spm.model' is 3, expected Tensor"),
        ("vocabulary", {"spm.model": torch.zeros(2)}, "spm.model: is no bytes of a file"),
        ("cfg/model/encoder_layers", 2**31, "encoder_layers is 2147483648, .* 2 tensors"),
        ("cfg/model/encoder_embed_dim", 1e12, "encoder_embed_dim is 1000000000000.0"),
    ],
)
def test_another_type_is_named(tmp_path, place, value, said):
    path = tmp_path / "x.pt"
    torch.save(with_part(place, value), path)
    with pytest.raises(CheckpointError, match=said) as refused:
        read_checkpoint(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)


@pytest.mark.parametrize("cut", range(100, 400, 25))
def test_a_pickle_that_was_cut(tmp_path, cut):
    """torch raises struct.error, IndexError, EOFError, …"""
    torch.save(SOUND, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content[:cut] if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointError, match="x.pt: (cannot be read|refused)"):
        read_checkpoint(tmp_path / "x.pt")


@dataclasses.dataclass
class Schema:
    layers: int = 1
    rate: float = 0.5
    name: str | None = None


def test_an_option_of_another_type_is_named():
    refuse_odd_options({"layers": 3, "rate": 1, "name": None, "other": []}, Schema, "x.pt")
    for name, value in (("layers", "3"), ("layers", True), ("rate", None), ("name", 4)):
        with pytest.raises(CheckpointError, match=rf"^x.pt: cfg.model.{name} is {value!r}"):
            refuse_odd_options({name: value}, Schema, "x.pt")


def test_a_model_that_cannot_be_built_because_of_it(tmp_path):
    path = tmp_path / "x.pt"
    model = {**SOUND["cfg"]["model"], "_name": "hubert_transformer", "dropout": "much"}
    torch.save(with_part("cfg/model", model), path)
    with pytest.raises(CheckpointError, match="cfg.model.dropout is 'much', expected float"):
        with explained_model(path):
            raise TypeError("of torch")
