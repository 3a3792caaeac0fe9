"""Run a training command and measure it: updates a second, and how long the GPU stood idle.

  python scripts/bench/watch.py measured.json -- fairseq-train DATA … --log-format json

The command's output passes through.  Every second nvidia-smi tells the share of time in which the
GPU was busy (it counts a GPU as busy while any kernel runs); the updates are read from fairseq's
json log, from the second epoch on, when the data is in the page cache and kernels are chosen (of a
run within one epoch, from the first log on).  Of a command that logs no updates, such as a recipe,
the GPU is measured from its start to its end.  A run that is stopped (SIGTERM, SIGINT) is measured
as far as it came, and of several trainings the last.  Of several GPUs the mean is given, of those
alone that CUDA_VISIBLE_DEVICES names.  Without nvidia-smi only the updates are measured.
"""

import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

from cress_svcd.atomic_files import write_json
from cress_svcd.recipes.runner import resolve

LOG_LINE = re.compile(r"\| INFO \| train_inner \| (\{.*\})")


QUERY = [
    "nvidia-smi",
    "--query-gpu=utilization.gpu,memory.used",
    "--format=csv,noheader,nounits",
    # One process for all samples: starting one takes the driver's attention from the training.
    "--loop=1",
]


def query() -> list[str]:
    """The command that samples the GPUs of the training."""
    cards = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [*QUERY, f"--id={cards}"] if cards else QUERY


def sample_gpu(process: subprocess.Popen, samples: list[tuple[float, int, int]]) -> None:
    """Append (time, utilisation in percent, memory in MiB) for each line that nvidia-smi prints."""
    for line in process.stdout:
        fields = line.strip().split(",")
        if len(fields) == 2 and all(field.strip().isdigit() for field in fields):
            samples.append((time.monotonic(), int(fields[0]), int(fields[1])))


def main() -> int:
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    output, command = sys.argv[1], sys.argv[3:]
    samples: list[tuple[float, int, int]] = []
    monitor = None
    if shutil.which("nvidia-smi"):
        monitor = subprocess.Popen(query(), stdout=subprocess.PIPE, text=True)
        threading.Thread(target=sample_gpu, args=(monitor, samples), daemon=True).start()
    updates: list[tuple[float, ...]] = []
    started = time.monotonic()
    process = subprocess.Popen(
        resolve(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # The command may not be in the process group that the signal was sent to.
        signal.signal(number, lambda sent, _: process.send_signal(sent))
    for line in process.stdout:
        print(line, end="", flush=True)
        logged = numbers_of(line)
        if logged:
            if updates and logged[0] < updates[-1][1]:
                updates.clear()  # another training has begun
            updates.append((time.monotonic(), *logged))
    code = process.wait()
    if monitor is not None:
        monitor.terminate()
        monitor.wait()
    write_json(output, summarize(samples, updates, time.monotonic() - started))
    return code


def numbers_of(line: str) -> tuple[float, ...] | None:
    """Updates, epoch and update within it, of a line of a training's log."""
    match = LOG_LINE.search(line)
    try:
        logged = json.loads(match[1]) if match else {}
        return tuple(float(logged[name]) for name in ("num_updates", "epoch", "update"))
    except (ValueError, KeyError):
        return None


def summarize(samples: list, updates: list, seconds: float) -> dict:
    """Figures of the steady state: from the first log of the second epoch to the last log; without
    logs the GPU's of the whole run."""
    steady = [entry for entry in updates if entry[2] >= 2]
    if len(steady) < 2:
        steady = updates
    result: dict = {"seconds": round(seconds, 1)}
    start, end = -math.inf, math.inf
    if len(steady) > 1:
        (start, first, _, begun), (end, last, _, passed) = steady[0], steady[-1]
        result["updates"] = int(last)
        result["updates_per_second"] = round((last - first) / (end - start), 2)
        result["epochs_per_second"] = round((passed - begun) / (end - start), 6)
    busy = [use for moment, use, _ in samples if start <= moment <= end]
    if busy:
        result["gpu_busy_percent"] = round(statistics.mean(busy), 1)
        result["gpu_idle_percent"] = round(100 - statistics.mean(busy), 1)
    if samples:
        result["gpu_memory_mib"] = max(memory for _, _, memory in samples)
    return result


if __name__ == "__main__":
    sys.exit(main())
