"""The machine that a figure was measured on."""

import os
import platform
import re
from pathlib import Path


def describe(device: str = "cpu") -> str:
    """The machine in words: its processor, how many, and with ``cuda`` its GPU."""
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        found = None
    words = f"{found[1] if found else platform.machine()}, {os.cpu_count()} CPUs"
    if device.startswith("cuda"):
        import torch

        words += f", {torch.cuda.get_device_name(device)}"
    return words
