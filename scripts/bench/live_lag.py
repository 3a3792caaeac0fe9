"""Quality against delay of live translation.

usage: python scripts/bench/live_lag.py MODEL MANIFEST [--policies agreement:2 attention:0.5 ...]
           [--steps 0.5 ...] [--recordings N] [--minutes 60] [--device cpu] [--threads 1]
           [--processes 1] [-o TABLE.json] [--picture FILE.png]

The recordings of a prepared split (MANIFEST, such as demo/en-de/data/tst-COMMON.tsv) are heard as
`cress-svcd serve` hears live audio: cut as they come, the open segment translated again after each
step (seconds), and its first words kept as a policy says (cress_svcd/translation/stable_prefix.py).

BLEU is that of the words as they were first shown, realigned with the references.  The lag is LAAL
(Papi et al., Over-generation cannot be rewarded, 2022), with each reference sentence on its own as
in StreamLAAL (Papi et al., 2024), in seconds: ideal, as if computing took no time, and with the
time that computing took here.  The last row but one keeps nothing before a segment is final; the
last is `cress-svcd translate`, which has the whole recording.

When --minutes have passed nothing more is begun, and the recordings count that all policies have
heard.  With --recordings 1 --policies attention:0.6 the demo's model takes less than a minute.

Needs cress_svcd[score].
"""

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from machine import describe
from tqdm import tqdm

from cress_svcd.atomic_files import write_json
from cress_svcd.data.audio import SAMPLE_RATE, read_audio
from cress_svcd.errors import CressError
from cress_svcd.evaluation import bleu_chrf
from cress_svcd.evaluation.plots import figure
from cress_svcd.evaluation.realignment import realign, require_extra
from cress_svcd.evaluation.recordings import Recording, Reference, audio_files, read_recordings
from cress_svcd.serving.live_audio import LiveAudio
from cress_svcd.translation.recordings import Segment
from cress_svcd.translation.result import Translation
from cress_svcd.translation.search import Wanted
from cress_svcd.translation.stable_prefix import POLICIES, Policy, StablePrefix
from cress_svcd.translation.translator import Translator

FULL_SCALE = 32767
WARM_SECONDS = 10  # heard before anything is timed: what is computed first is slower
DEFAULT = ["attention:0.3", "attention:0.6", "agreement:2", "agreement:3", "hold:4", "hold:6"]


@dataclass(frozen=True)
class Said:
    """A word and when it was shown, in seconds: ideal, and with computing."""

    text: str
    ideal: float
    real: float


class Listener:
    """Hears a recording as the server does; ``said`` grows."""

    def __init__(self, translator: Translator, policy: Callable[[], Policy], step: float):
        self.translator, self.policy, self.step = translator, policy, step
        self.audio = LiveAudio(translator.segmentation)
        self.stable = StablePrefix(policy())
        self.said: list[Said] = []
        self.clock = self.computing = 0.0
        self.shown = self.looks = 0  # words of the open segment that were shown; translations

    def hear(self, pcm: bytes) -> list[Said]:
        size = 2 * round(self.step * SAMPLE_RATE)
        for first in range(0, len(pcm), size):
            self.audio.append(pcm[first : first + size])
            self._look(self.audio.received / SAMPLE_RATE, ended=False)
        self._look(self.audio.received / SAMPLE_RATE, ended=True)
        return self.said

    def _look(self, now: float, ended: bool) -> None:
        self.clock = max(self.clock, now)
        final, open_one = self._timed(lambda: self.audio.segments(ended))
        for segment in final:
            self._show(self._translated(segment).text, now)
            self.stable, self.shown = StablePrefix(self.policy()), 0
        if open_one is not None and not final:
            found = self._translated(open_one)
            tokens = self.stable.update(found, open_one.end)
            self._show(self.translator.search.text_of(" ".join(tokens)), now)

    def _show(self, text: str, now: float) -> None:
        words = text.split()
        self.said += [Said(word, now, self.clock) for word in words[self.shown :]]
        self.shown = max(self.shown, len(words))

    def _translated(self, segment: Segment) -> Translation:
        segment = replace(segment, prefix=self.stable.tokens)
        wanted = Wanted(attention=self.stable.policy.attention)
        self.looks += 1
        return self._timed(lambda: next(self.translator.translate_segments([segment], wanted))[1])

    def _timed(self, work: Callable):
        started = time.perf_counter()
        result = work()
        taken = time.perf_counter() - started
        self.clock += taken
        self.computing += taken
        return result


def lag(delays: list[float], words: int, seconds: float) -> float:
    """LAAL of a sentence.

    Args:
        delays: of its words, from its start.
        words: of the reference.
        seconds: that it lasts.
    """
    per_word = seconds / max(len(delays), words)
    last = next((i for i, delay in enumerate(delays) if delay >= seconds), len(delays) - 1)
    return statistics.fmean(delays[i] - i * per_word for i in range(last + 1))


def lags(said: list[Said], recording: Recording) -> tuple[list[str], list[float], list[float]]:
    """Realigned texts of a recording's sentences, and their lags, ideal and with computing."""
    texts = realign(" ".join(s.text for s in said), [r.text for r in recording.references])
    ideal, real, first = [], [], 0
    for text, reference in zip(texts, recording.references):
        own = said[first : first + len(text.split())]
        first += len(own)
        if own:
            ideal.append(lag_of([s.ideal for s in own], reference))
            real.append(lag_of([s.real for s in own], reference))
    return texts, ideal, real


def lag_of(times: list[float], reference: Reference) -> float:
    delays = [at - reference.start for at in times]
    return lag(delays, len(reference.text.split()), reference.end - reference.start)


def bleu(texts: list[str], recordings: list[Recording]) -> float:
    references = [reference.text for one in recordings for reference in one.references]
    return bleu_chrf.measure(texts, references)["bleu"]


@dataclass(frozen=True)
class Work:
    """A recording to be heard; a process does one at a time."""

    recording: Recording
    audio: str
    policy: str  # "translate": whole
    step: float = 0.0


@dataclass
class Heard:
    """What came of ``Work``: realigned texts; lags and computing in seconds."""

    texts: list[str]
    ideal: list[float]
    real: list[float]
    computing: float
    looks: int
    seconds: float


class Worker:
    """A process's own translator; its first work loads it, whose caller hears what is wrong."""

    args: argparse.Namespace
    translator: Translator | None = None

    @classmethod
    def start(cls, args: argparse.Namespace) -> None:
        logging.disable(logging.INFO)
        warnings.simplefilter("ignore")
        cls.args = args

    @classmethod
    def load(cls, audio: str) -> Translator:
        args = cls.args
        translator = Translator.load(args.model, device=args.device, threads=args.threads)
        pcm = pcm_of(read_audio(audio)[: WARM_SECONDS * SAMPLE_RATE])
        Listener(translator, policy_of(args.policies[0]), args.steps[0]).hear(pcm)
        return translator

    @classmethod
    def do(cls, work: Work) -> Heard:
        cls.translator = cls.translator or cls.load(work.audio)
        wave = read_audio(work.audio)
        seconds = len(wave) / SAMPLE_RATE
        references = [reference.text for reference in work.recording.references]
        if work.policy == "translate":
            texts = realign(cls.translator.translate(work.audio).text, references)
            return Heard(texts, [], [], 0.0, 0, seconds)
        listener = Listener(cls.translator, policy_of(work.policy), work.step)
        said = listener.hear(pcm_of(wave))
        found = lags(said, work.recording)
        return Heard(*found, listener.computing, listener.looks, seconds)


def pcm_of(wave: np.ndarray) -> bytes:
    """A wave from -1 to 1 as live audio has it: 16 bits, little endian."""
    return (FULL_SCALE * wave).astype("<i2").tobytes()


def row(heard: list[Heard], recordings: list[Recording]) -> dict:
    seconds = sum(one.seconds for one in heard)
    return {
        "bleu": bleu([text for one in heard for text in one.texts], recordings),
        "lag": round(statistics.fmean(t for one in heard for t in one.ideal), 3),
        "lag_with_computing": round(statistics.fmean(t for one in heard for t in one.real), 3),
        "computing_share": round(sum(one.computing for one in heard) / seconds, 4),
        "looks_a_second": round(sum(one.looks for one in heard) / seconds, 2),
    }


class Nothing:
    """Keeps nothing before a segment is final."""

    attention = False

    def certain(self, found: Translation, end: float) -> int:
        return 0


def policy_of(spec: str) -> Callable[[], Policy]:
    """A policy out of ``NAME:VALUE``, or ``final``; raises SystemExit if it is none."""
    name, _, value = spec.partition(":")
    if spec == "final":
        return Nothing
    try:
        number = float(value) if name == "attention" else int(value)
        return partial(POLICIES[name], number)
    except (KeyError, ValueError):
        known = " or ".join(f"{name}:NUMBER" for name in POLICIES)
        raise SystemExit(f"--policies {spec}: expected {known}") from None


def table(result: dict) -> str:
    offline = result["offline_bleu"]
    heard = (
        f"{result['recordings']} recordings, {result['sentences']} sentences, "
        f"{result['seconds']} s; {result['machine']}; {result['date']}"
    )
    head = f"{'policy':<16}{'step':>6}{'BLEU':>8}{'share':>8}{'lag':>8}{'real':>8}{'more':>7}"
    lines = [heard, head]
    for row in result["rows"]:
        more = row["lag_with_computing"] / row["lag"] - 1
        lines.append(
            f"{row['policy']:<16}{row['step']:>6g}{row['bleu']:>8.2f}{row['bleu'] / offline:>8.1%}"
            f"{row['lag']:>8.2f}{row['lag_with_computing']:>8.2f}{more:>7.1%}"
        )
    return "\n".join([*lines, f"{'translate':<22}{offline:>8.2f}"])


def picture(result: dict, path: Path) -> None:
    """BLEU against lag: a point for each row, named by its value, and a cross with computing."""
    several = len({row["step"] for row in result["rows"]}) > 1
    with figure(path) as (axes,):
        colors: dict[str, str] = {}
        for row in result["rows"]:
            name, _, value = row["policy"].partition(":")
            label = "" if name in colors else name
            color = colors.setdefault(name, f"C{len(colors)}")
            lags, bleus = (row["lag"], row["lag_with_computing"]), (row["bleu"], row["bleu"])
            axes.plot(lags, bleus, color=color, linewidth=1, alpha=0.6)
            axes.plot(lags[0], bleus[0], "o", color=color, label=label or None)
            axes.plot(lags[1], bleus[1], "x", color=color)
            words = " ".join(filter(None, (value, f"({row['step']:g} s)" if several else "")))
            axes.annotate(f"{words}  ", (lags[0], bleus[0]), ha="right", va="center", fontsize=8)
        offline = result["offline_bleu"]
        axes.axhline(offline, color="gray", linewidth=1)
        axes.axhline(0.9 * offline, color="gray", linewidth=1, linestyle=":")
        axes.set_xlabel("average lagging, s (LAAL; crosses: with the time of computing)")
        axes.set_ylabel("BLEU (lines: offline, and 90 % of it)")
        axes.legend(fontsize=8)


def hear_all(args: argparse.Namespace) -> tuple[list[Recording], dict[tuple, list[Heard]]]:
    """The recordings that were heard in time, and what came of them: (policy, step) -> each.

    Raises:
        SystemExit: no recording was heard by all policies in time.
        CressError: the model, the manifest or a recording cannot be used.
    """
    recordings = read_recordings(args.manifest)[: args.recordings]
    names = [(name, step) for step in args.steps for name in (*args.policies, "final")]
    names.append(("translate", 0.0))
    both = zip(recordings, audio_files(args.manifest, recordings))
    works = [[Work(*one, *name) for name in names] for one in both]
    context = get_context("spawn")
    with ProcessPoolExecutor(args.processes, context, Worker.start, (args,)) as pool:
        futures = [[pool.submit(Worker.do, work) for work in one] for one in works]
        everything = [future for one in futures for future in one]
        with tqdm(total=len(everything), desc="heard", disable=None) as bar:
            for future in everything:
                future.add_done_callback(lambda future: bar.update(not future.cancelled()))
            wait(everything, timeout=args.minutes * 60, return_when=FIRST_EXCEPTION)
            pool.shutdown(cancel_futures=True)
    for future in everything:
        if not future.cancelled():
            future.result()  # what failed is told, however little was heard
    heard = [[f.result() for f in one] for one in futures if not any(f.cancelled() for f in one)]
    if not heard:
        raise SystemExit(f"no recording was heard by all policies in {args.minutes:g} minutes")
    return recordings[: len(heard)], dict(zip(names, map(list, zip(*heard))))


def measure(args: argparse.Namespace) -> dict:
    started = time.monotonic()
    recordings, heard = hear_all(args)
    whole = heard.pop(("translate", 0.0))
    return {
        "model": str(args.model),
        "machine": f"{describe(args.device)}, "
        f"{args.processes} process(es) of {args.threads} thread(s)",
        "date": date.today().isoformat(),
        "recordings": len(recordings),
        "sentences": sum(len(recording.references) for recording in recordings),
        "seconds": round(sum(one.seconds for one in whole)),
        "took": round(time.monotonic() - started),
        "offline_bleu": bleu([text for one in whole for text in one.texts], recordings),
        "rows": [
            {"policy": name, "step": step, **row(own, recordings)}
            for (name, step), own in heard.items()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a checkpoint, packed or not")
    parser.add_argument("manifest", type=Path, help="of a split whose recordings are there")
    parser.add_argument(
        "--policies",
        nargs="+",
        default=DEFAULT,
        metavar="NAME:VALUE",
        help=f"of {', '.join(POLICIES)}",
    )
    parser.add_argument("--steps", type=float, nargs="+", default=[0.5], metavar="S")
    parser.add_argument("--recordings", type=int, metavar="N", help="only the first ones")
    parser.add_argument(
        "--minutes", type=float, default=60, metavar="M", help="only as many as are heard in M"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a process")
    parser.add_argument("--processes", type=int, default=1, help="each hears a recording at a time")
    parser.add_argument("-o", "--output", type=Path, help="JSON with all numbers")
    parser.add_argument("--picture", type=Path, help="PNG")
    args = parser.parse_args()
    for spec in args.policies:
        policy_of(spec)
    try:
        require_extra("mweralign", "mweralign")
        result = measure(args)
    except CressError as error:
        raise SystemExit(f"live_lag.py: {error}") from None
    print(table(result))
    if args.output:
        write_json(args.output, result)
    if args.picture:
        picture(result, args.picture)


if __name__ == "__main__":
    sys.exit(main())
