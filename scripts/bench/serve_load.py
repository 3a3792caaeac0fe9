"""A server under load: its answers, its times and its memory.

usage: python scripts/bench/serve_load.py MODEL RECORDING... [--requests 1000] [--clients 32]
           [--long-seconds 60] [--long-share 0.2] [--engine torch] [--words-of MODEL]
           [--threads N] [--workers N] [--seed 1] [-o FILE]

Starts `cress-svcd serve MODEL` at a free port of this machine and asks it for --requests
translations from --clients clients at a time.  Of these a tenth is rubbish (noise, a recording that
is cut off, another content type, a form without a file), a tenth hangs up (in the middle of its
upload, or while it waits), and the rest are good: short ones, a RECORDING each, and long ones, all
of them joined until --long-seconds are reached.  The words of a good one must be those that
`cress-svcd translate` writes of the same file, with --words-of by torch with that model.

Prints latencies (p50, p95, p99) of short and of long recordings, translated seconds a second, by
the clock and by the server's processor time, and its memory at the start and at the end.  The
status is 1 if a good request got no answer or other words, or a bad one was not refused.  Needs
cress_svcd[serve,test] and Linux.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import soundfile
from machine import describe
from server_process import PROGRAM, serving

PATH = "/v1/audio/translations"
RUBBISH, HANG_UPS = 0.1, 0.1
WAIT_SECONDS = 300.0


@dataclass
class Recording:
    """What is sent, what must come back, and how long it is."""

    kind: str  # short or long
    content: bytes
    words: str
    seconds: float


@dataclass
class Found:
    """What the clients saw."""

    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sent: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)  # requests so far, MB
    good_seconds: float = 0.0


def joined(paths: list[Path], seconds: float, target: Path) -> Path:
    """One recording after the other, again and again, until it has that many seconds."""
    rate = soundfile.info(paths[0]).samplerate
    waves, length = [], 0.0
    while length < seconds:
        for path in paths:
            wave, found = soundfile.read(path, dtype="int16")
            if found != rate:
                raise SystemExit(f"{path}: {found} Hz, expected {rate} as of {paths[0]}")
            waves.append(wave)
            length += len(wave) / rate
    soundfile.write(target, np.concatenate(waves)[: int(seconds * rate)], rate)
    return target


def translated(model: str, path: Path, options: list[str]) -> str:
    """What ``cress-svcd translate`` writes of a recording."""
    result = subprocess.run(
        [*PROGRAM, "translate", model, str(path), *options], capture_output=True, text=True
    )
    if result.returncode:
        raise SystemExit(result.stderr.splitlines()[-1])
    return result.stdout


def prepare(args: argparse.Namespace, options: list[str], folder: Path) -> list[Recording]:
    model, options = args.model, [*options, "--engine", args.engine]
    if args.words_of:
        model, options = args.words_of, options[:-2]
    kinds = [("short", Path(path)) for path in args.recordings]
    long = joined([path for _, path in kinds], args.long_seconds, folder / "long.flac")
    return [
        Recording(
            kind,
            path.read_bytes(),
            translated(model, path, options),
            soundfile.info(path).duration,
        )
        for kind, path in [*kinds, ("long", long)]
    ]


def megabytes(pid: int) -> float:
    """Of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return round(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, 1)


def processor_seconds(pid: int) -> float:
    """That a process has computed for."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Clients:
    def __init__(self, url: str, recordings: list[Recording], args: argparse.Namespace, pid: int):
        self.url, self.args, self.pid = url, args, pid
        self.by_kind = defaultdict(list)
        for recording in recordings:
            self.by_kind[recording.kind].append(recording)
        self.random = random.Random(args.seed)
        self.found, self.asked = Found(), 0
        limits = httpx.Limits(max_connections=args.clients + 1)
        self.http = httpx.AsyncClient(base_url=url, timeout=WAIT_SECONDS, limits=limits)

    async def run(self) -> float:
        """Seconds in which all was answered."""
        started = time.perf_counter()
        await asyncio.gather(*(self._client() for _ in range(self.args.clients)))
        return time.perf_counter() - started

    async def _client(self) -> None:
        while self.asked < self.args.requests:
            self.asked += 1
            if self.asked % max(1, self.args.requests // 10) == 0:
                self.found.memory.append((self.asked, megabytes(self.pid)))
            chance = self.random.random()
            kind = "long" if self.random.random() < self.args.long_share else "short"
            recording = self.random.choice(self.by_kind[kind])
            try:
                if chance < RUBBISH:
                    await self._rubbish(recording)
                elif chance < RUBBISH + HANG_UPS:
                    await self._hang_up(recording)
                else:
                    await self._good(recording)
            except Exception as error:  # the others go on; it is told at the end
                self.found.wrong.append(f"{type(error).__name__}: {error}")

    async def _good(self, recording: Recording) -> None:
        started = time.perf_counter()
        answer = await self.http.post(
            PATH, files={"file": recording.content}, data={"response_format": "text"}
        )
        self.found.latencies[recording.kind].append(time.perf_counter() - started)
        self.found.sent["good"] += 1
        if answer.status_code != 200 or answer.text != recording.words:
            self.found.wrong.append(f"{recording.kind}: {answer.status_code} {answer.text[:200]}")
        else:
            self.found.good_seconds += recording.seconds

    async def _rubbish(self, recording: Recording) -> None:
        noise = self.random.randbytes(20_000)
        kind, request, expected = self.random.choice(
            [
                ("noise", {"files": {"file": noise}}, {400}),
                ("cut off", {"files": {"file": recording.content[:30]}}, {400}),
                ("content type", {"json": {"file": "a"}}, {415}),
                ("no file", {"files": {"sound": noise}}, {400}),
            ]
        )
        answer = await self.http.post(PATH, **request)
        self.found.sent["rubbish"] += 1
        if answer.status_code not in expected:
            self.found.wrong.append(f"{kind}: {answer.status_code} {answer.text[:200]}")

    async def _hang_up(self, recording: Recording) -> None:
        """Send a form, in half of the cases only a part of it, and leave."""
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        body = head + recording.content + b"\r\n--x--\r\n"
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        )
        writer.write(body if self.random.random() < 0.5 else body[: len(body) // 2])
        await writer.drain()
        await asyncio.sleep(0.5 * self.random.random())
        writer.transport.abort()
        self.found.sent["hang-ups"] += 1


def quantiles(values: list[float]) -> dict[str, float]:
    points = {
        name: np.quantile(values, q) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    return {name: round(float(value), 2) for name, value in points.items()}


def measure(args: argparse.Namespace) -> dict:
    options = ["--device", args.device]
    if args.threads:
        options += ["--threads", str(args.threads)]
    with tempfile.TemporaryDirectory() as folder:
        recordings = prepare(args, options, Path(folder))
    options += ["--engine", args.engine, "--workers", str(args.workers)]
    with serving(args.model, *options) as (server, url):
        for recording in recordings:  # memory is measured from when all has been done once
            httpx.post(url + PATH, files={"file": recording.content}, timeout=WAIT_SECONDS)
        before, computed = megabytes(server.pid), processor_seconds(server.pid)

        async def main() -> tuple[Clients, float]:
            clients = Clients(url, recordings, args, server.pid)
            seconds = await clients.run()
            await clients.http.aclose()
            return clients, seconds

        clients, seconds = asyncio.run(main())
        after = megabytes(server.pid)
        computed = processor_seconds(server.pid) - computed
    found = clients.found
    everything = [value for values in found.latencies.values() for value in values]
    return {
        "machine": describe(args.device),
        "sent": dict(found.sent),
        "wrong": found.wrong,
        "latencies": {
            kind: {"requests": len(values), **quantiles(values)}
            for kind, values in [*sorted(found.latencies.items()), ("all", everything)]
        },
        "seconds": round(seconds, 1),
        "speech_seconds_a_second": round(found.good_seconds / seconds, 1),
        "speech_seconds_a_processor_second": round(found.good_seconds / computed, 1),
        "megabytes": {
            "before": round(before, 1),
            "after": round(after, 1),
            "on_the_way": found.memory,
        },
        "status": server.returncode,
    }


def report(result: dict) -> None:
    sent = ", ".join(f"{count} {kind}" for kind, count in sorted(result["sent"].items()))
    print(f"{sent}; {len(result['wrong'])} wrong")
    for line in result["wrong"][:10]:
        print(f"  {line}")
    print(f"{'seconds':<10}{'requests':>9}{'p50':>8}{'p95':>8}{'p99':>8}")
    for kind, row in result["latencies"].items():
        numbers = "".join(f"{row[name]:>8.2f}" for name in ("p50", "p95", "p99"))
        print(f"{kind:<10}{row['requests']:>9}{numbers}")
    memory = result["megabytes"]
    way = ", ".join(f"{megabytes:.0f}" for _, megabytes in memory["on_the_way"])
    print(
        f"{result['speech_seconds_a_second']:g} s of speech a second, "
        f"{result['speech_seconds_a_processor_second']:g} a second of a processor; "
        f"status {result['status']}"
    )
    print(f"memory: {memory['before']:g} MB before, {way} on the way, {memory['after']:g} after")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a checkpoint, packed or not")
    parser.add_argument("recordings", nargs="+", help="short ones, of one rate")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--long-seconds", type=float, default=60.0, help="of a long recording")
    parser.add_argument("--long-share", type=float, default=0.2, help="of the good requests")
    parser.add_argument("--engine", choices=("torch", "native"), default="torch")
    parser.add_argument("--words-of", metavar="MODEL", help="by torch; default: MODEL by --engine")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of a worker; default: as the engine chooses")
    parser.add_argument("--workers", type=int, default=1, help="of the server")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="JSON with all numbers")
    args = parser.parse_args()
    result = measure(args)
    report(result)
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(bool(result["wrong"]) or result["status"] != 0)


if __name__ == "__main__":
    sys.exit(main())
