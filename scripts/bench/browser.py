"""The page of native/page in Chromium: seconds and memory of a base-size model, one thread.

    make -C native/page
    python scripts/bench/browser.py native/build/page

The random model of random_model.py translates noise as one segment: beam 5, 60 tokens at most, no
three of which come twice, as the bench of the command in C does it.  Prints a line a run, then
medians: ``load``, seconds until the model is there; ``seconds`` from the samples to the words;
``cpu_seconds`` of the renderer, the process of the page, for both; and its memory at the most:
``private`` is its own (nearly what Chromium's task manager shows), ``resident`` counts the pages of
Chromium's program as well, which all of its processes share.
"""

import argparse
import functools
import http.server
import json
import os
import re
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import soundfile
from playwright.sync_api import sync_playwright
from random_model import make_models, noise

TRANSLATE = """
async ({ options }) => {
  const { decode } = await import("./recording.js");
  const worker = new Worker("worker.js", { type: "module" });
  const heard = (wanted) => new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data.type === "error") reject(new Error(data.message));
      if (data.type === wanted) resolve(data);
    };
  });
  const begun = performance.now();
  worker.postMessage({ type: "load", source: new URL("base.cress", location.href).href });
  await heard("loaded");
  const loaded = performance.now();
  const recording = await decode(await (await fetch("noise.wav")).blob());
  const decoded = performance.now();
  worker.postMessage({ type: "translate", ...recording, options });
  await heard("segment");
  const seconds = [loaded - begun, performance.now() - decoded].map((ms) => ms / 1000);
  await heard("done");
  return { seconds };
}
"""
OPTIONS = {"whole": True, "beam": 5, "maxLength": 60, "noRepeat": 3}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def number(path: str, name: str) -> int:
    """Of a file of /proc with lines such as ``VmHWM:  100 kB``."""
    return int(re.search(rf"^{name}:\s*(\d+)", Path(path).read_text(), re.MULTILINE)[1])


def renderers(folder: str) -> list[int]:
    """Chromium's processes of pages, of the browser whose profile lies in ``folder``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"--type=renderer" in command and folder.encode() in command:
            found.append(int(entry.name))
    return found


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Memory(threading.Thread):
    """The most of a process's own memory, by looking at it all the time."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.private, self.over = pid, 0, threading.Event()
        self.start()

    def run(self):
        rollup = f"/proc/{self.pid}/smaps_rollup"
        while not self.over.wait(0.05):
            try:
                private = number(rollup, "Private_Clean") + number(rollup, "Private_Dirty")
            except OSError:  # a spare process of Chromium's that has ended
                return
            self.private = max(self.private, private)


def measure(chromium, url: str) -> dict[str, float]:
    """One run in a browser of its own."""
    with tempfile.TemporaryDirectory() as profile:
        context = chromium.launch_persistent_context(
            profile, executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = context.new_page()
        page.goto(url)
        time.sleep(1)
        # The page's own process is the one that translated; the others are Chromium's spare ones.
        before = {pid: (cpu_seconds(pid), Memory(pid)) for pid in renderers(profile)}
        found = page.evaluate(TRANSLATE, {"options": OPTIONS})
        spent = {pid: cpu_seconds(pid) - start for pid, (start, _) in before.items()}
        pid = max(spent, key=lambda pid: spent[pid])
        for _, memory in before.values():
            memory.over.set()
            memory.join()
        resident = number(f"/proc/{pid}/status", "VmHWM")
        context.close()
    load, seconds = found["seconds"]
    return {
        "load": load,
        "seconds": seconds,
        "cpu_seconds": spent[pid],
        "private_mb": before[pid][1].private / 1000,
        "resident_mb": resident / 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="folder of the page, as make writes it")
    parser.add_argument("--models", type=Path, help="keep the random model in this folder")
    parser.add_argument("--seconds", type=float, default=22, help="of noise (default: 22)")
    parser.add_argument("--runs", type=int, default=3, help="(default: 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "page"
        shutil.copytree(args.page, folder)
        models = args.models or Path(temporary) / "models"
        models.mkdir(parents=True, exist_ok=True)
        export(models, folder / "base.cress")
        soundfile.write(folder / "noise.wav", noise(1, args.seconds), 16_000)
        handler = functools.partial(Quiet, directory=temporary)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with sync_playwright() as playwright:
                url = f"http://localhost:{server.server_port}/page/"
                runs = []
                for _ in range(args.runs):
                    runs.append(measure(playwright.chromium, url))
                    print(json.dumps({key: round(value, 2) for key, value in runs[-1].items()}))
            server.shutdown()
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    print("median", json.dumps({key: round(value, 2) for key, value in medians.items()}))


def export(models: Path, path: Path) -> None:
    from cress_svcd.cli.main import main as command

    packed = make_models(models, ["packed"])["packed"]
    if command(["export", str(packed), "-o", str(path)]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
