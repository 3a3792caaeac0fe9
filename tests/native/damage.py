"""Damaged models and recordings for an engine that was built with sanitizers.

    flags='-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all'
    make -C native BUILD=build/asan CFLAGS="$flags" build/asan/cress
    python -m tests.native.damage native/build/asan/cress model.cress speech.wav --count 1000

Every second damaged model has a checksum that fits, as who means harm would give it: it is an error
in one line, or translates.  Any other is an error.  A recording is an error or is translated.
Anything else is kept in a file and told.
"""

import argparse
import collections
import json
import random
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cress_svcd.inference.cress_file import with_checksum

SECONDS = 120
NUMBERS = (b"0", b"1", b"7", b"65536", b"2147483647", b"4294967296", b"9" * 20, b"-1", b"1e308")
VALUES = (0, 1, 2, -1, 0.5, 1e308, 4096, 2**31, 2**53, None, True, False, "", "x" * 600, [], {})
PIECES = (*NUMBERS, b"", b"{", b"[", b'"', b"\0", b"null")


def flip(content: bytearray, chance: random.Random, start: int, stop: int, most: int) -> None:
    for _ in range(chance.randrange(1, most)):
        content[chance.randrange(start, stop)] ^= 1 << chance.randrange(8)


def entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """(what holds it, its key) of all that is in a plan."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from entries(value[key])


def with_another_plan(header: bytes, chance: random.Random) -> bytes:
    """Entries taken out, of another kind or size, or in the place of others."""
    known = json.loads(header)
    plan = json.loads(known["__metadata__"]["plan"])
    for _ in range(chance.randrange(1, 4)):
        holder, key = chance.choice([*entries(plan)])
        other, place = chance.choice([*entries(plan)])
        change = chance.randrange(4)
        if change == 0:
            del holder[key]
        elif change == 1:
            holder[key] = json.loads(json.dumps(other[place]))
        else:
            holder[key] = chance.choice(VALUES)
    known["__metadata__"]["plan"] = json.dumps(plan)
    text = json.dumps(known, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def damaged_model(content: bytes, chance: random.Random) -> bytes:
    """Cut, with other bits in header or weights, with absurd numbers or words in the header, or
    with another plan."""
    (size,) = struct.unpack("<Q", content[:8])
    header, weights = content[8 : 8 + size], content[8 + size :]
    kind = chance.randrange(6)
    if kind == 0:
        return content[: chance.randrange(len(content))]
    if kind in (1, 2):
        flipped = bytearray(content)
        flip(flipped, chance, *((0, 8 + size, 6) if kind == 1 else (8 + size, len(content), 60)))
        return bytes(flipped)
    if kind == 5:
        header = with_another_plan(header, chance)
        return struct.pack("<Q", len(header)) + header + weights
    if kind == 3:
        start = chance.randrange(size)
        stop, piece = start + 1, chance.choice(PIECES)
    else:
        start, stop = chance.choice([match.span() for match in re.finditer(rb"\d+", header)])
        piece = chance.choice(NUMBERS)
    header = header[:start] + piece + header[stop:]
    return struct.pack("<Q", len(header)) + header + weights


def damaged_wav(content: bytes, chance: random.Random) -> bytes:
    kind = chance.randrange(4)
    if kind == 0:
        return content[: chance.randrange(len(content))]
    flipped = bytearray(content)
    if kind == 1:
        flip(flipped, chance, 0, 60, 8)
    elif kind == 2:  # numbers of the header: rate, channels, bits, lengths
        at = chance.choice([4, 16, 20, 22, 24, 28, 32, 34, 36, 40])
        piece = struct.pack("<I", chance.choice([0, 1, 2, 3, 65, 255, 65535, 2**31 - 1, 2**32 - 1]))
        flipped[at : at + len(piece)] = piece
    else:
        at = chance.randrange(12, 60)
        flipped[at:at] = chance.randbytes(chance.randrange(1, 40))
    return bytes(flipped)


def try_one(engine: Path, model: Path, wav: Path) -> tuple[str, str]:
    """What became of it ("translated", "refused" or what is wrong), and standard error."""
    command = [engine, "translate", "--max-len-b", 5, "--beam", 2, model, wav]
    try:
        done = subprocess.run(
            [*map(str, command)], capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "hangs", ""
    said = done.stderr.decode(errors="replace")
    if done.returncode not in (0, 1, 2) or "Sanitizer" in said or "runtime error" in said:
        return "crashes", said
    lines = [line for line in said.splitlines() if not line.endswith("that its header announces")]
    if done.returncode and (not said.startswith("cress: ") or len(lines) != 1):
        return "says something else than one line", said
    return ("refused" if done.returncode else "translated"), said


def run(engine: Path, model: Path, wav: Path, count: int, seed: int, folder: Path):
    """(kind of file, what became of it) -> how many, and the files that nothing should do."""
    results: collections.Counter[tuple[str, str]] = collections.Counter()
    bad = []
    sources = {"model": (model.read_bytes(), damaged_model), "wav": (wav.read_bytes(), damaged_wav)}
    for kind, (content, damage) in sources.items():
        for number in range(count):
            chance = random.Random(f"{seed} {kind} {number}")
            path, damaged = folder / f"{kind}{number}", damage(content, chance)
            sealed = kind == "model" and number % 2 == 0
            path.write_bytes(with_checksum(damaged) if sealed else damaged)
            files = (path, wav) if kind == "model" else (model, path)
            outcome, said = try_one(engine, *files)
            if kind == "model" and not sealed and outcome == "translated" and damaged != content:
                outcome = "passes for sound"
            results[kind, outcome] += 1
            if outcome in ("translated", "refused"):
                path.unlink()
            else:
                bad.append((path, outcome, said))
    return results, bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("engine", "model", "wav"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--count", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="damaged"))
    results, bad = run(args.engine, args.model, args.wav, args.count, args.seed, folder)
    for (kind, outcome), count in sorted(results.items()):
        print(f"{kind}: {count} {outcome}")
    for path, outcome, said in bad:
        print(f"{path}: {outcome}\n{said[:2000]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
