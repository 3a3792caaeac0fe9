"""Runs of readers in processes of their own, with limits, and what is wrong with how they end."""

import contextlib
import dataclasses
import faulthandler
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from cress_svcd.errors import CressError
from tests.fuzz.readers import Case, Reader

CPU_SECONDS = 20
"""More is a hang.  Other programs of the machine do not count; waiting does, by WALL_SECONDS."""
WALL_SECONDS = 120
MEMORY = 4 << 30
"""Bytes that a run may take on top of what it starts with."""
_REFUSED, _FINE, _BROKEN = 2, 0, 70
_LONGEST_LINE = 3000


@dataclasses.dataclass
class Verdict:
    """How a run ended.

    status: 0 for a result, 2 for a refusal; or a command's.
    fault: what is wrong with it, in a line; empty where it ended as it should.
    details: what it printed, with the traceback.
    """

    status: int
    fault: str = ""
    details: str = ""


def place(reader: Reader, world: Path, content: bytes, scratch: Path) -> Case:
    """A copy of the reader's folder, by links, with the damaged file in it."""
    shutil.rmtree(scratch, ignore_errors=True)
    source, folder = world / reader.folder, scratch / "in" / reader.folder
    for root, _, names in os.walk(source):
        own = folder / Path(root).relative_to(source)
        own.mkdir(parents=True)
        for name in names:
            os.symlink(os.path.join(root, name), own / name)
    file = folder / Path(reader.file).relative_to(reader.folder)
    file.unlink()
    file.write_bytes(content)
    (scratch / "out").mkdir()
    return Case(file, folder, scratch / "out", world)


def _limit(memory: bool) -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    size = pages * resource.getpagesize() + MEMORY
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _signature(error: BaseException) -> str:
    """The kind of an error and our innermost line: the same fault has the same."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "cress_svcd/" in frame.filename]
    where = "?"
    if ours:
        where = f"{ours[-1].filename.split('cress_svcd/')[-1]}:{ours[-1].name}"
    return f"{type(error).__name__} in {where}"


def _child(call: Callable[[], object]) -> int:
    """Status of a run; a fault is the last line of what it prints."""
    try:
        status = call()
        return status if isinstance(status, int) and not isinstance(status, bool) else _FINE
    except CressError as error:
        message = str(error)
        print(f"refused: {message}", file=sys.stderr)
        return _REFUSED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        traceback.print_exc()
        print(f"FAULT: {_signature(error)}", file=sys.stderr)
        return _BROKEN


def run_forked(reader: Reader, world: Path, contents: list[bytes], scratch: Path) -> list[Verdict]:
    """Run a reader on each of ``contents`` in a copy of this process; in another one after a
    crash or a hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    verdicts: list[Verdict] = []
    while len(verdicts) < len(contents):
        verdicts += _run_until_crash(reader, world, contents[len(verdicts) :], scratch)
    return verdicts


def _run_until_crash(
    reader: Reader, world: Path, contents: list[bytes], scratch: Path
) -> list[Verdict]:
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(receiving)
            os.setsid()
            faulthandler.disable()  # pytest's would print a page
            _read_all(reader, world, contents, scratch, sending)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(sending)
    verdicts = []
    with open(receiving, encoding="utf-8") as reports:
        while len(verdicts) < len(contents):
            late = not select.select([reports], [], [], WALL_SECONDS)[0]
            line = "" if late else reports.readline()
            if not line:
                break
            verdicts.append(Verdict(*json.loads(line)))
        with contextlib.suppress(ProcessLookupError):
            if late or len(verdicts) == len(contents):
                os.killpg(child, signal.SIGKILL)  # and whatever it may have started
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if len(verdicts) < len(contents):
        late = late or status == -signal.SIGXCPU
        case = Case(*[scratch / name for name in ("in", "in", "out")], world)
        verdicts.append(_judge(reader, case, scratch, status or _BROKEN, late))
    return verdicts


def _read_all(
    reader: Reader, world: Path, contents: list[bytes], scratch: Path, reports: int
) -> None:
    """In the copy: run the reader on each and report."""
    _limit(memory=True)
    for content in contents:
        case = place(reader, world, content, scratch)
        os.chdir(scratch)
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        soft = int(used) + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        for number, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
            flags = os.O_RDONLY if not number else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            opened = os.open(name, flags, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdout = os.fdopen(1, "w", buffering=1, errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        status = _child(lambda: reader.call(case))  # noqa: B023 - called at once
        sys.stdout.flush()
        sys.stderr.flush()
        verdict = _judge(reader, case, scratch, status, late=False)
        os.write(reports, json.dumps(dataclasses.astuple(verdict)).encode() + b"\n")


def run_command(reader: Reader, world: Path, content: bytes, scratch: Path) -> Verdict:
    """Run the command as users do: ``cress-svcd …``, a process of its own."""
    case = place(reader, world, content, scratch)
    program = [sys.executable, "-m", "cress_svcd.cli.main", *reader.words(case)]
    late = False
    with open(scratch / "stdout", "wb") as out, open(scratch / "stderr", "wb") as err:
        process = subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=lambda: _limit(memory=False),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        try:
            process.wait(WALL_SECONDS)
        except subprocess.TimeoutExpired:
            late = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    return _judge(reader, case, scratch, status, late or status == -signal.SIGXCPU)


def _judge(reader: Reader, case: Case, scratch: Path, status: int, late: bool) -> Verdict:
    said = (
        (scratch / "stderr").read_text("utf-8", "replace") if (scratch / "stderr").exists() else ""
    )
    lines = said.strip().splitlines()
    verdict = Verdict(status, "", said[-8000:])
    if late:
        verdict.fault = f"hang: more than {CPU_SECONDS} s of computing or {WALL_SECONDS} s"
    elif status < 0:
        verdict.fault = f"ended by {signal.Signals(-status).name}"
    elif lines and lines[-1].startswith("FAULT: "):
        verdict.fault = lines[-1].removeprefix("FAULT: ")
    elif "Traceback (most recent call last)" in said:
        verdict.fault = f"a traceback: {lines[-1][:100]}"
    elif status:
        verdict.fault = _wrong_refusal(reader, status, lines) or _left_behind(case, status)
    return verdict


def _wrong_refusal(reader: Reader, status: int, lines: list[str]) -> str:
    """What is wrong with a refusal: it is one line, the last, and begins as all do."""
    begins = f"cress-svcd {reader.words(Case(*[Path()] * 4))[0]}: " if reader.words else "refused: "
    if status not in (1, 2):
        return f"status {status}"
    if not lines:
        return "refused without a word"
    if not lines[-1].startswith(begins) or lines[-1] == begins.strip():
        return f"a refusal of several lines, or of none: … {lines[-1][:100]}"
    if reader.words and status == 2 and sum(f"{begins}error: " in line for line in lines[-2:]) > 2:
        return "two errors"
    if len(lines[-1]) > _LONGEST_LINE:
        return f"a refusal of {len(lines[-1])} characters"
    return ""


def _left_behind(case: Case, status: int) -> str:
    """What a refused command left of its output: nothing may have a temporary or its final name.

    Folders of resumable work keep what was done, and with status 1 a command did a part.
    """
    for path in sorted(case.out.rglob("*")):
        if path.name.endswith(".part"):
            return f"left a temporary file: {path.relative_to(case.out)}"
        if status == 2 and path.parent == case.out and path.is_file():
            return f"left {path.name} after a refusal"
    return ""
