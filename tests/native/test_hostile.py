"""Models that somebody made to do harm, whose checksum fits, and programs that call wrongly."""

import json
import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cress_svcd.inference.cress_file import with_checksum
from tests.native.conftest import NATIVE


class Made:
    """A model's header, plan and weights, which tests change."""

    def __init__(self, path):
        content = path.read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        self.header = json.loads(content[8 : 8 + size])
        self.weights = bytearray(content[8 + size :])
        self.plan = json.loads(self.header["__metadata__"]["plan"])

    def add(self, name, values):
        self.weights += bytes(-len(self.weights) % 8)
        place = [len(self.weights), len(self.weights) + values.nbytes]
        kind = {"float32": "F32", "int32": "I32"}[values.dtype.name]
        shape = list(values.shape)
        self.header[name] = {"dtype": kind, "shape": shape, "data_offsets": place}
        self.weights += values.tobytes()

    def write(self, path):
        self.header["__metadata__"]["plan"] = json.dumps(self.plan)
        write_sealed(path, json.dumps(self.header, separators=(",", ":")), bytes(self.weights))
        return path


def write_sealed(path, header, weights):
    text = header.encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(with_checksum(struct.pack("<Q", len(text)) + text + weights))


def no_norm(made):
    made.plan["speech"]["norm"] = None


def no_norm_of_the_stack(made):
    made.plan["speech"]["stack_norm"] = None


def wide_strides(made):
    made.add("wide.weight", np.zeros((1, 1, 1), np.float32))
    wide = {"name": "wide", "out": 1, "channels": 1, "kernel": 1, "groups": 1, "stride": 4096}
    wide |= {"padding": 0, "norm": None, "norm_over": None}
    rest = made.plan["speech"]["convolutions"]
    rest[0] |= {"norm": None, "norm_over": None}
    made.plan["speech"]["convolutions"] = [wide] * 6 + rest


def long_kernel(made):
    first = made.plan["speech"]["convolutions"][0]
    made.add("long.weight", np.ones((first["out"], 4096, 1), np.float32))
    first |= {"name": "long", "kernel": 4096}


def one_word(made):
    width = made.plan["decoder"]["width"]
    made.add("one.weight", np.zeros((1, width), np.float32))
    made.add("engine/token_offsets", np.array([0, 1], np.int32))
    made.plan["linears"]["one"] = {"kind": "dense", "in": width, "out": 1, "bias": False}
    made.plan["decoder"] |= {"output": "one", "embedding": "one"}
    made.plan |= dict.fromkeys(["pad", "eos", "unk", "bos"], 0)


def scales_in_words(made):
    packed = [one for one in made.plan["linears"].values() if one["kind"] == "packed"]
    packed[0]["plane_scales"] = ["one"] * packed[0]["planes"]


def not_a_number(made):
    first, last = made.header["decoder.layer_norm.weight"]["data_offsets"]
    made.weights[first:last] = b"\xff" * (last - first)


REASONS = {
    no_norm: "lacks norm",
    no_norm_of_the_stack: "lacks stack_norm",
    wide_strides: "spans more than",
    long_kernel: "does not compute",
    one_word: "has no words",
    scales_in_words: "is no number",
    not_a_number: "its weights are damaged",
}


@pytest.mark.parametrize("change", REASONS, ids=lambda change: change.__name__)
def test_a_model_made_for_harm_is_refused_in_one_line(change, engine, exampled, voice, tmp_path):
    made = Made(exampled)
    change(made)
    model = made.write(tmp_path / "made.cress")
    done = translated(engine, "--beam", "1", model, voice)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert REASONS[change] in line
    assert str(model if change is not not_a_number else voice) in line


def test_a_header_of_numbers_alone_takes_no_memory(engine, voice, tmp_path):
    metadata = '{"__metadata__":{"format":"cress","crc32":"00000000"},"a":['
    write_sealed(tmp_path / "large.cress", metadata + "0," * 2_000_000 + "0]}", b"")
    done = translated(engine, tmp_path / "large.cress", voice)
    assert done.returncode == 2 and "too many values" in done.stderr


def test_a_pipe_is_no_model(engine, voice, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = translated(engine, tmp_path / "pipe", voice)
    assert done.returncode == 2 and "is no .cress file" in done.stderr


def test_wrong_calls_are_refused_and_a_child_has_no_threads(engine, exampled, voice, tmp_path):
    source = Path(__file__).with_name("misuse.c")
    command = ["cc", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE / 'include'}", source]
    command += [engine.parent / "libcress.a", "-lm", "-pthread", "-o", tmp_path / "misuse"]
    subprocess.run([*map(str, command)], check=True)
    command = [tmp_path / "misuse", exampled, voice]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    here, child = done.stdout.splitlines()
    assert here and here == child


def translated(engine, *arguments):
    command = [str(part) for part in (engine, "translate", *arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
