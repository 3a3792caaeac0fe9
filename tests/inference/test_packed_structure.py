"""Damaged packed files whose digest fits: each is refused in words that name file and part."""

import copy
import json
import struct

import pytest
import torch
from torch import nn

from cress_svcd.cli.main import main
from cress_svcd.errors import CheckpointError
from cress_svcd.inference.packed_checkpoint import (
    check_file,
    digest_of,
    read_packed,
    with_digest,
)
from cress_svcd.inference.packed_structure import read_description
from cress_svcd.inference.packed_tensors import Precision, pack_tensors
from cress_svcd.models.checkpoint_files import PACKED_HEADER, is_packed
from cress_svcd.quantization.low_bit_grid import LowBits
from cress_svcd.quantization.policy import LayerSpec


@pytest.fixture
def state():
    """What a sound packed file holds: a layer, a table of 3 bits, a convolution in int8."""
    torch.manual_seed(0)
    layer = LayerSpec().quantize(nn.Linear(12, 6))
    tensors = {f"fc.{name}": value for name, value in layer.state_dict().items()}
    tensors |= {"embed_tokens.weight": torch.randn(5, 9), "conv.weight": torch.randn(4, 3, 2)}
    precision = Precision(int8_convolutions=True, low_bits=LowBits(embedding=3))
    layers = {"fc": LayerSpec("svcd", layer.settings()).to_dict()}
    packed, description = pack_tensors(tensors, layers, precision)
    model = {"_name": "quant_transformer", "packed": json.dumps(description)}
    return {
        "cfg": {"task": {"_name": "speech_and_text_translation"}, "model": model},
        "model": packed,
        "task_state": {},
    }


def described(state, change):
    """``state`` with its description changed."""
    description = json.loads(state["cfg"]["model"]["packed"])
    change(description)
    state["cfg"]["model"]["packed"] = json.dumps(description)


def saved(state, path):
    """``path`` with ``state`` in it and a digest that fits, where there can be one."""
    header = {"format": "cress_svcd packed model", "version": 2}
    whole = {**state, PACKED_HEADER: header}
    try:
        header["digest"] = digest_of(whole)
    except ValueError:
        header["digest"] = "none"
    torch.save(whole, path)
    return path


def test_a_sound_file_is_read(state, tmp_path):
    found = read_packed(saved(state, tmp_path / "sound.pt"))
    assert with_digest(state)[PACKED_HEADER] == found[PACKED_HEADER]


PARTS = {
    "no options": (lambda s: s.pop("cfg"), "its 'cfg' is missing, expected keys and values"),
    "no model": (lambda s: s.update(model=None), "its 'model' is missing"),
    "a number": (lambda s: s.update(model=True), "its 'model' is True, expected keys"),
    "a text": (lambda s: s.update(model=""), "its 'model' is '', expected keys"),
    "no state": (lambda s: s.update(task_state=None), "its 'task_state' is missing"),
    "no options of the model": (
        lambda s: s["cfg"].update(model=None),
        "its 'cfg.model' is missing",
    ),
    "no arch": (lambda s: s["cfg"]["model"].pop("_name"), "its 'cfg.model._name' is missing"),
    "no task": (lambda s: s["cfg"]["task"].pop("_name"), "its 'cfg.task._name' is missing"),
    "not described": (lambda s: s["cfg"]["model"].pop("packed"), "'cfg.model.packed' is missing"),
    "no signs": (
        lambda s: s["model"].pop("fc.signs"),
        "fc.signs: is missing, expected torch.uint8",
    ),
    "cut signs": (
        lambda s: s["model"].update({"fc.signs": s["model"]["fc.signs"][:-1]}),
        "fc.signs: is torch.uint8 of (5, 2), expected torch.uint8 of (6, 2)",
    ),
    "scales of a layer": (lambda s: s["model"].pop("fc.h"), "fc.h: is missing"),
    "scales of a table": (
        lambda s: s["model"].update({"embed_tokens.scale": torch.ones(4)}),
        "embed_tokens.scale: is torch.float32 of (4,), expected a floating type of (5,)",
    ),
    "planes of another type": (
        lambda s: s["model"].update({"embed_tokens.weight": torch.zeros(5, 9)}),
        "embed_tokens.weight: is torch.float32 of (5, 9), expected torch.uint8",
    ),
    "weight of a convolution": (
        lambda s: s["model"].update({"conv.weight": torch.zeros(4, dtype=torch.int8)}),
        "conv.weight: is torch.int8 of (4,), expected torch.int8",
    ),
    "absurdly large": (
        lambda s: s["model"].update({"fc.h": torch.zeros(1).expand(2**40)}),
        "fc.h: says that it has 4,398,046,511,104 bytes, for which the file has no values",
    ),
    "absurdly large elsewhere": (
        lambda s: s.update(criterion=torch.zeros(1).expand(2**40)),
        "is damaged: its content has the digest none, ValueError",
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_part_is_named(state, tmp_path, name):
    change, message = PARTS[name]
    change(state)
    path = saved(state, tmp_path / "damaged.pt")
    with pytest.raises(CheckpointError) as caught:
        read_packed(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and message in said and "again" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d["layers"]["fc"].pop("planes"), "layers: fc: is {'in_features'"),
        (lambda d: d["layers"]["fc"].update(in_features=-1), "layers: fc: is"),
        (lambda d: d.update(layers=[1]), "layers: is [1], expected in_features"),
        (lambda d: d.update(tables="embed_tokens"), "tables: is 'embed_tokens', expected names"),
        (lambda d: d.update(tables=[3]), "tables: 0: is 3, expected names"),
        (lambda d: d["convolutions"]["conv"].update(dtype="int4"), "convolutions: conv: is"),
        (lambda d: d["convolutions"].update(conv=None), "convolutions: conv: is missing"),
        (lambda d: d.update(dtype=None), "dtype: is missing, expected a type"),
        (
            lambda d: d["low_bits"].update(other={"bits": 1, "shape": [2, 2]}),
            "low_bits: other: is no",
        ),
        (lambda d: d["low_bits"]["embed_tokens"].update(bits=9), "are no bits and shapes"),
    ],
)
def test_a_damaged_description_is_named(state, change, message):
    described(state, change)
    with pytest.raises(CheckpointError) as caught:
        read_description(state["cfg"]["model"]["packed"])
    assert message in str(caught.value) and "again" in str(caught.value)


def test_an_archive_of_several_disks_is_refused(state, tmp_path):
    path = saved(state, tmp_path / "m.pt")
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 9)
    path.write_bytes(content[:end] + locator + content[end:])
    with pytest.raises(CheckpointError, match="m.pt: cannot be read as a checkpoint"):
        check_file(path)


@pytest.mark.parametrize("key", ["g", "bias"])
def test_a_layer_without_one_of_its_scales_ends_in_one_line(state, tmp_path, capsys, key):
    del state["model"][f"fc.{key}"]
    path = saved(state, tmp_path / "m.pt")
    assert main(["unpack", str(path), "-o", str(tmp_path / "x.pt")]) == 2
    said = capsys.readouterr().err
    assert f"{path}: fc: its tensors are not those of the layer" in said and f'"{key}"' in said
    assert len(said.splitlines()) == 1 and not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("text", [None, 3, "", "[]", "3", "{", "[" * 100_000])
def test_what_is_no_description_is_refused(text):
    with pytest.raises(CheckpointError, match="packed model: its description"):
        read_description(text)


@pytest.mark.parametrize("header", ["cress_svcd packed model", None, [1]])
def test_a_damaged_header_ends_a_command_in_one_line(state, tmp_path, capsys, header):
    torch.save({**copy.deepcopy(state), PACKED_HEADER: header}, tmp_path / "m.pt")
    assert is_packed({PACKED_HEADER: header})
    assert main(["unpack", str(tmp_path / "m.pt"), "-o", str(tmp_path / "x.pt")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'm.pt'}: its header 'packed' gives the format" in said
    assert len(said.splitlines()) == 1 and not (tmp_path / "x.pt").exists()
