"""Nothing outlives the process that started it: real processes, ended in every way."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cress_svcd.recipes import children
from cress_svcd.recipes.children import LOCKS_VARIABLE, Child, FolderInUseError, alone_in
from cress_svcd.recipes.processes import ProcessError, run_logged

# Notes its process under its name, starts the programs that follow, and waits.
PROGRAM = """
import os, pathlib, signal, subprocess, sys, time
folder, name, *below = sys.argv[1:]
if name == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if below:
    # As torchrun starts its ranks: a session of its own, and no file open.
    subprocess.Popen([sys.executable, __file__, folder, *below], start_new_session=True)
part = pathlib.Path(folder, name + ".part")
part.write_text(str(os.getpid()))
part.rename(pathlib.Path(folder, name))
time.sleep(600)
"""

# Holds the lock of a folder and runs a program there.
PARENT = """
import signal, sys
from pathlib import Path
# Tests that run in the background (nohup, a CI) ignore these, and so would their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from cress_svcd.recipes.children import alone_in, ending_in_order
from cress_svcd.recipes.processes import run_logged
folder, *program = sys.argv[1:]
with ending_in_order(), alone_in(Path(folder), Path(folder, ".lock"), "test") as locks:
    run_logged([sys.executable, *program], Path(folder, "log"), locks=locks)
"""


def wait_for(condition, seconds: float = 30, pause: float = 0.02) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(pause)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_free(folder: Path) -> bool:
    try:
        with alone_in(folder, folder / ".lock", "test"):
            return True
    except FolderInUseError:
        return False


@pytest.fixture
def program(tmp_path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


class Tree:
    """A parent, its child, and what that has started."""

    def __init__(self, folder: Path, program: Path, *names: str):
        self.folder = folder
        folder.mkdir()
        (folder / "parent.py").write_text(PARENT)
        self.parent = subprocess.Popen(
            [sys.executable, folder / "parent.py", folder, program, folder, *names],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        wait_for(lambda: all((folder / name).exists() for name in names))
        self.processes = [int((folder / name).read_text()) for name in names]

    def gone(self) -> bool:
        return not any(alive(process) for process in self.processes)


@pytest.fixture
def grow(tmp_path, program):
    trees = []

    def make(*names):
        trees.append(Tree(tmp_path / "tree", program, *names))
        return trees[-1]

    yield make
    for tree in trees:
        for process in (tree.parent.pid, *tree.processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        tree.parent.communicate(timeout=60)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_children_and_theirs_end_with_their_parent(grow, how):
    tree = grow("child", "grandchild", "its child")
    assert not is_free(tree.folder)
    tree.parent.send_signal(how)
    wait_for(lambda: is_free(tree.folder), pause=0.001)
    assert tree.gone()  # whoever gets the lock finds nobody at work
    tree.parent.wait(timeout=60)
    assert tree.parent.returncode == (143 if how == signal.SIGTERM else -how)


def test_they_end_with_the_parents_whole_group(grow):
    tree = grow("child", "grandchild")
    os.killpg(tree.parent.pid, signal.SIGKILL)
    wait_for(tree.gone)
    wait_for(lambda: is_free(tree.folder))


@pytest.mark.slow
def test_one_that_does_not_want_to_end_is_made_to(grow):
    tree = grow("stubborn", "grandchild")
    tree.parent.kill()
    time.sleep(1)
    assert not tree.gone() and not is_free(tree.folder)
    wait_for(tree.gone)
    wait_for(lambda: is_free(tree.folder))


def test_what_a_failed_command_leaves_behind_ends_with_it(tmp_path, program):
    code = (
        "import pathlib, subprocess, sys, time;"
        "subprocess.Popen([*sys.argv[1:]], start_new_session=True);"
        "path = pathlib.Path(sys.argv[-2], sys.argv[-1]);"
        "[time.sleep(0.02) for _ in iter(path.exists, True)]; sys.exit(3)"
    )
    command = [sys.executable, "-c", code, sys.executable, program, tmp_path, "left"]
    started = time.monotonic()
    with pytest.raises(ProcessError, match="status 3"):
        run_logged(command, tmp_path / "log")
    assert not alive(int((tmp_path / "left").read_text()))
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_the_status_is_that_of_the_command(how):
    code = f"import os; os.kill(os.getpid(), {int(how)})"
    assert Child([sys.executable, "-c", code], os.environ).wait(timeout=60) == -how
    assert Child([sys.executable, "-c", "exit(5)"], os.environ).wait(timeout=60) == 5


def test_a_program_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        Child(["no-such-program"], os.environ)
    (tmp_path / "x").write_text("#!/no/such/interpreter\n")
    (tmp_path / "x").chmod(0o755)
    child = Child([str(tmp_path / "x")], os.environ, stderr=subprocess.PIPE, text=True)
    assert "x: cannot be started (No such file" in child.communicate(timeout=60)[1]
    assert child.returncode == 127


def test_a_locked_folder_says_so(tmp_path):
    with alone_in(tmp_path, tmp_path / "a" / "lock", "training"):
        with pytest.raises(FolderInUseError, match=f"{tmp_path}: another training is at work"):
            with alone_in(tmp_path, tmp_path / "a" / "lock", "training"):
                pass
    with alone_in(tmp_path, tmp_path / "a" / "lock", "training"):
        pass


# A pool of workers that wait; notes their processes.
POOL = """
import concurrent.futures, multiprocessing, os, pathlib, sys, time
from cress_svcd.recipes.children import serve_parent
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = concurrent.futures.ProcessPoolExecutor(2, context, initializer=serve_parent)
    found = set()
    while len(found) < 2:
        found |= {future.result() for future in [pool.submit(os.getpid) for _ in range(9)]}
    pathlib.Path(sys.argv[2] + ".part").write_text(" ".join(map(str, found)))
    os.rename(sys.argv[2] + ".part", sys.argv[2])
    time.sleep(600)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_of_a_pool_end_with_their_parent(tmp_path, method):
    (tmp_path / "pool.py").write_text(POOL)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "pool.py", method, tmp_path / "pids"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_for((tmp_path / "pids").exists)
    workers = list(map(int, (tmp_path / "pids").read_text().split()))
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(alive, workers)))


SHOW = f"""
import os
for lock in os.environ[{LOCKS_VARIABLE!r}].split():
    print(os.readlink("/proc/self/fd/" + lock.split(":")[0]))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are read from /proc")
@pytest.mark.parametrize("what", ["as it was", "closed", "another file", "the same file anew"])
def test_a_lock_of_above_is_passed_on_and_a_file_that_took_its_number_is_not(
    tmp_path, monkeypatch, what
):
    with open(tmp_path / "lock", "w") as lock, open(tmp_path / "other", "w") as other:
        number = os.dup(lock.fileno())
        monkeypatch.setenv(LOCKS_VARIABLE, f"{children._identity(number)} word 7:x {'9' * 99}:1:1")
        if what == "closed":
            os.close(number)
        elif what == "another file":
            os.dup2(other.fileno(), number)
        elif what == "the same file anew":
            (tmp_path / "lock").rename(tmp_path / "old")
            with open(tmp_path / "lock", "w") as again:
                os.dup2(again.fileno(), number)
        try:
            command = [sys.executable, "-c", SHOW]
            child = Child(command, dict(os.environ), stdout=subprocess.PIPE, text=True)
            output = child.communicate(timeout=30)[0]
            child.stop()
        finally:
            with contextlib.suppress(OSError):
                os.close(number)
    assert child.returncode == 0
    assert output.split() == ([str(tmp_path / "lock")] if what == "as it was" else [])
