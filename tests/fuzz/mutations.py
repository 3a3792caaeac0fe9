"""Hypothesis strategies that damage a file: its bytes, its lines, or what its format means."""

import contextlib
import copy
import functools
import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch
import yaml
from hypothesis import strategies as st

from cress_svcd.data.audio_ogg import ogg_crc
from cress_svcd.inference.packed_checkpoint import digest_of

Strategy = st.SearchStrategy

_EDGES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 2)
_TAGS = (b"RIFF", b"RF64", b"ds64", b"fmt ", b"data", b"fact", b"LIST", b"riff", b"FORM", b"COMM",
         b"SSND", b"AIFF", b".snd", b"caff", b"desc", b"pakt", b"OggS", b"OpusHead", b"vorbis",
         b"fLaC", b"ID3", b"Xing", b"Info", b"LAME", b"NIST", b"sample_count", b"NUMPY", b"descr",
         b"shape", b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"MMIDIDX")  # fmt: skip
_BYTES = (b"", b"\0", b"\n", b"\t", b"\r", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x80",
          b"RIFF\xff\xff\xff\xffWAVE", b"OggS", b"fLaC", b"ID3\x03\0\0\x7f\x7f\x7f\x7f",
          b"\xff\xfb\x90\x64", b"PK\x03\x04", b"(" * 5000)  # fmt: skip
_WORDS = ("", " ", "-1", "0", "1e999", "nan", "-inf", "9" * 30, "1e-400", "0x10", "1_000", "٣",
          "\0", "\ufeff", "\u2028", "\x85", "\x0b", "\r", "\x1c", "😀", "../..", "/", "\\", '"',
          "'", "%s", "{x}", "{", "[", ":", ":0:0", ":-1:-1", ":9999999999999999999:1", "#", "\t\t",
          "a" * 70_000, "null", "true", "~", "-", "--", "T-0\t", "D-0\t0\t",
          "<b>", "-->", "99:99:99,999")  # fmt: skip
# Texts that parsers of YAML and JSON stumble over.
_TREES = (
    "[" * 20_000, "{" * 20_000, "{a: " * 3000, '{"a":' * 20_000, "- " * 3000 + "a", "&a [*a]", "*a",
    "&a {b: *a}", "? [a]\n: b\n", "{[a]: b}", "a: !!int x\n", "a: !!float x\n", "a: !!bool x\n",
    "a: 2001-99-99\n", "a: !!binary x\n", "a: !!timestamp x\n", "a: !!python/object:os.system x\n",
    "a: !!set {b}\n", "a: !!omap [b]\n", "a: =\n", "<<: 3\n", "<<: {a: 1}\n", "a: 1\n---\nb: 2\n",
    "%YAML 9.9\n---\na: 1\n", "a: 1:2:3:99\n", "\x01", "null", "3", '"a"', "[]", "{}", "NaN",
    "a: &a [1, 2]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b]\n"
    "d: &d [*c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d]\n"
    "f: &f [*e, *e, *e, *e]\ng: &g [*f, *f, *f, *f, *f, *f, *f]\n"
    "h: &h [*g, *g, *g, *g, *g, *g, *g]\ni: [*h, *h, *h, *h]\n",
)  # fmt: skip


def _places(content: bytes) -> Strategy:
    """Anywhere, but rather where a file begins or ends, and behind what names its parts."""
    size, tags = len(content), []
    for tag in _TAGS:
        at = content.find(tag)
        while at >= 0 and len(tags) < 200:
            tags.append(at)
            at = content.find(tag, at + 1)
    choices = [st.integers(0, size), st.integers(0, min(size, 64))]
    choices += [st.integers(max(0, size - 64), size)]
    if tags:
        behind = st.tuples(st.sampled_from(tags), st.integers(0, 48))
        choices += [behind.map(lambda pair: min(size, sum(pair)))] * 2
    return st.one_of(choices)


@st.composite
def of_bytes(draw: Callable, content: bytes) -> bytes:
    """One to four changes of bytes anywhere."""
    result, places = bytearray(content), _places(content)
    for _ in range(draw(st.integers(1, 4))):
        at = min(draw(places), len(result))
        kind = draw(st.integers(0, 8))
        if kind == 0:
            del result[at:]
        elif kind == 1:
            del result[at : at + draw(st.integers(1, 300))]
        elif kind == 2:
            result[at:at] = draw(st.sampled_from(_BYTES))
        elif kind == 3:
            start = min(draw(places), len(result))
            result[at:at] = result[start : start + draw(st.integers(1, 2000))]
        elif kind == 4 and at < len(result):
            result[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 5 and at < len(result):
            result[at] = draw(st.integers(0, 255))
        elif kind == 6:
            result[at : at + 64] = draw(st.binary(min_size=0, max_size=64))
        else:
            form = draw(st.sampled_from(("<H", ">H", "<I", ">I", "<Q", ">Q")))
            value = draw(st.one_of(st.sampled_from(_EDGES), st.integers(0, 2**64 - 1)))
            packed = struct.pack(form, value % (1 << 8 * struct.calcsize(form)))
            result[at : at + len(packed)] = packed
    return bytes(result)


def _with_checksums(content: bytes) -> bytes:
    """Ogg whose pages have the right checksums again, so that what they hold is read."""
    result, at = bytearray(content), content.find(b"OggS")
    while at >= 0:
        following = content.find(b"OggS", at + 4)
        stop = following if following >= 0 else len(result)
        if stop - at > 27:
            result[at + 22 : at + 26] = bytes(4)
            result[at + 22 : at + 26] = struct.pack("<I", ogg_crc(bytes(result[at:stop])))
        at = following
    return bytes(result)


def of_audio(content: bytes) -> Strategy:
    """Bytes; in Ogg half of the time with right checksums."""
    damaged = of_bytes(content)
    if content.startswith(b"OggS"):
        return st.one_of(damaged, damaged.map(_with_checksums))
    return damaged


@st.composite
def of_text(draw: Callable, content: bytes) -> bytes:
    """Words, fields and lines changed, moved and doubled; now and then another encoding."""
    lines = content.decode("utf-8").split("\n")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.integers(0, 6))
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        elif kind == 2:
            lines.insert(at, draw(st.sampled_from(_WORDS)))
        else:
            apart = draw(st.sampled_from(("\t", " ", ":", ",", '"')))
            fields = lines[at].split(apart)
            field = draw(st.integers(0, len(fields) - 1))
            if kind == 3:
                del fields[field]
            elif kind == 4:
                fields.insert(field, draw(st.sampled_from(_WORDS)))
            else:
                word = st.one_of(st.sampled_from(_WORDS), st.text(max_size=8))
                fields[field] = draw(word)
            lines[at] = apart.join(fields)
    text = "\n".join(lines)
    encoding = draw(st.sampled_from(["utf-8"] * 12 + ["utf-16", "utf-32", "latin-1", "utf-8-sig"]))
    return text.encode(encoding, "replace")


def odd_values() -> Strategy:
    """Of any type, also absurd ones."""
    plain = st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from([0, 1, -1, 2**31, 2**63, 10**30, 10**400, -(2**64), 0.5, -0.0]),
        st.sampled_from([1e308, 1e-320]),
        st.sampled_from([float("nan"), float("inf"), -float("inf")]),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.sampled_from([word for word in _WORDS if "\0" not in word]),
        st.text(max_size=12),
    )  # fmt: skip
    keys = st.one_of(st.text(max_size=4), st.integers(-2, 2))
    return st.one_of(
        plain, plain, st.lists(plain, max_size=3), st.dictionaries(keys, plain, max_size=3)
    )


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a tree of dictionaries and lists."""
    found = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = (
            node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        )
        for key in keys:
            found.append((node, key))
            waiting.append(node[key])
    return found


def _depth_first(draw: Callable, tree: Any) -> tuple[Any, Any] | None:
    """A node: at each level one of the keys, so that the few high ones are met as often."""
    at = None
    while isinstance(tree, dict | list) and len(tree):
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = draw(st.sampled_from(keys))
        at = (tree, key)
        tree = tree[key]
        if draw(st.integers(0, 4)) == 0:
            break
    return at


@st.composite
def of_tree(draw: Callable, tree: Any, values: Callable[[Any], Strategy] | None = None) -> Any:
    """Values replaced, keys taken away or put in, of what a file holds."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        place = _depth_first(draw, tree)
        if place is None or draw(st.integers(0, 60)) == 0:
            tree = draw(odd_values())
            continue
        node, key = place
        kind = draw(st.integers(0, 6))
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[draw(st.one_of(st.text(max_size=5), st.integers(-1, 3)))] = node[key]
        elif kind == 2:
            other = _depth_first(draw, tree)
            node[key] = copy.deepcopy(other[0][other[1]]) if other else None
        else:
            node[key] = draw((values or (lambda _: odd_values()))(node[key]))
    return tree


class _AnyDumper(yaml.SafeDumper):
    """Without aliases, which would say another thing."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _as_yaml(tree: Any) -> bytes:
    text = yaml.dump(tree, Dumper=_AnyDumper, sort_keys=False, allow_unicode=True)
    return text.encode("utf-8", "replace")


def _as_json(tree: Any) -> bytes:
    return json.dumps(tree, default=str).encode()


@st.composite
def _with_text(draw: Callable, content: bytes) -> bytes:
    """A text that parsers stumble over, alone, before, behind, or as a value."""
    odd = draw(st.sampled_from(_TREES)).encode()
    kind = draw(st.integers(0, 3))
    return (odd, odd + b"\n" + content, content + b"\n" + odd, b"out: " + odd)[kind]


def of_yaml(content: bytes) -> Strategy:
    tree = yaml.safe_load(content)
    changed = of_tree(tree).map(_as_yaml)
    return st.one_of(changed, changed, changed, of_text(content), _with_text(content))


def of_json(content: bytes) -> Strategy:
    changed = of_tree(json.loads(content)).map(_as_json)
    return st.one_of(changed, changed, changed, of_text(content), _with_text(content))


def of_json_lines(content: bytes) -> Strategy:
    changed = of_tree([json.loads(line) for line in content.splitlines()]).map(
        lambda lines: b"\n".join(map(_as_json, lines if isinstance(lines, list) else [lines]))
    )
    return st.one_of(changed, changed, of_text(content), _with_text(content))


def _odd_tensors(value: Any) -> Strategy:
    """In place of a tensor mostly one of other shape, type or values, or an absurdly large one."""
    if not isinstance(value, torch.Tensor):
        return odd_values()
    dtypes = [torch.int8, torch.uint8, torch.bool, torch.int64, torch.float16, torch.float64,
              torch.bfloat16, torch.complex64]  # fmt: skip
    huge = torch.zeros(1)
    floating = value.float()
    made: list[Callable[[], Any]] = [
        lambda: value[:-1] if value.ndim else value,
        lambda: value.flatten(),
        lambda: value[None],
        lambda: value.transpose(0, -1).contiguous() if value.ndim else value,
        lambda: torch.cat([value, value]) if value.ndim else value,
        lambda: value.new_zeros(0),
        lambda: value.new_zeros(()),
        lambda: value.new_zeros((0, *value.shape[1:])),
        lambda: floating * float("nan"),
        lambda: floating * 1e38,
        lambda: huge.expand(2**40),
        lambda: huge.expand(2**20, 2**20),
        lambda: huge.expand(max(1, len(value)) if value.ndim else 1, 2**31),
        lambda: torch.zeros(3).as_strided((3, 3), (0, 1)),
        lambda: floating.to_sparse() if value.ndim else value,
        lambda: torch.empty(3, device="meta"),
        *(lambda dtype=dtype: value.to(dtype) for dtype in dtypes),
    ]
    return st.one_of(st.sampled_from(made).map(lambda make: make()), odd_values())


def saved(state: Any) -> bytes:
    """As torch.save writes it."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _resigned(state: Any) -> Any:
    """A packed model whose digest fits what it holds, where there can be one."""
    with contextlib.suppress(Exception):
        state["packed"]["digest"] = digest_of(state)
    return state


@functools.cache
def _loaded(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


@st.composite
def of_archive(draw: Callable, content: bytes) -> bytes:
    """A zip file with a member taken away, doubled, cut, damaged or renamed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = draw(st.integers(0, len(members) - 1))
    if draw(st.booleans()):  # the pickle
        at = next((i for i, (name, _) in enumerate(members) if name.endswith("data.pkl")), at)
    name, data = members[at]
    kind = draw(st.integers(0, 5))
    if kind == 0:
        del members[at]
    elif kind == 1:
        members[at] = (draw(st.sampled_from(["archive/data.pkl", "x", "../x", "/x"])), data)
    elif kind == 2:
        members[at] = (name, data[: draw(st.integers(0, len(data)))])
    else:
        members[at] = (name, draw(of_bytes(data)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw(st.sampled_from([0, 0, zipfile.ZIP_DEFLATED]))) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def of_checkpoint(content: bytes) -> Strategy:
    """What it holds, its members, its bytes; of a packed model mostly with a digest that fits."""
    state = _loaded(content)
    changed = of_tree(state, _odd_tensors)
    if isinstance(state, dict) and "packed" in state:
        changed = st.one_of(changed.map(_resigned), changed.map(_resigned), changed)
    changed = changed.map(saved)
    return st.one_of(changed, changed, changed, of_archive(content), of_bytes(content))


def of_npy(content: bytes) -> Strategy:
    """Mostly the words of its header."""
    size = content.index(b"\n") + 1

    @st.composite
    def header(draw: Callable) -> bytes:
        text = content[10:size].decode("latin-1")
        old = draw(st.sampled_from(["<f2", "<f4", "<i8", "False", "shape", "(", ",", "}", "descr"]))
        odd = ["|O", "<f8", "<i2", "<U9", "<M8[s]", "[('a', '<f4')]", "True", "(" * 300, "-1", "{",
               "9" * 25, "", "'", "1e9", "(2, 2)", "None"]  # fmt: skip
        text = text.replace(old, draw(st.sampled_from(odd)), 1)
        if draw(st.booleans()):
            text = text.rstrip().ljust(size - 11)[: size - 11] + "\n"
        return content[:8] + struct.pack("<H", len(text) % 65536) + text.encode() + content[size:]

    return st.one_of(header(), of_bytes(content))


KINDS: dict[str, Callable[[bytes], Strategy]] = {
    "bytes": of_bytes,
    "audio": of_audio,
    "npy": of_npy,
    "text": of_text,
    "yaml": of_yaml,
    "json": of_json,
    "json lines": of_json_lines,
    "checkpoint": of_checkpoint,
}
"""How a file of a kind is damaged; see :class:`tests.fuzz.readers.Reader`."""
