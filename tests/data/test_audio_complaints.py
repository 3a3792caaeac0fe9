"""libmpg123's own messages are heard, not shown; all others arrive."""

import ctypes
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from cress_svcd.data import audio_complaints
from cress_svcd.data.audio import read_audio, read_blocks
from cress_svcd.data.audio_complaints import complaints
from tests.helpers.odd_audio import encoded, sweep

READER = """
import concurrent.futures, ctypes, os, sys
from cress_svcd.data.audio import audio_info, read_audio
libc = ctypes.CDLL(None)
stream = ctypes.c_void_p.in_dll(libc, "stderr")
out = ctypes.c_void_p.in_dll(libc, "stdout")
before = stream.value, out.value

def read(path):
    try:
        read_audio(path)
    except Exception as error:
        sys.stdout.write(f"error: {error}\\n")  # at once: others write as well

def speak(number):
    os.write(2, b"descriptor\\n")
    sys.stderr.write("python\\n")
    libc.fputs(b"c\\n", ctypes.c_void_p(stream.value))
    libc.fputs(b"printed\\n", ctypes.c_void_p(out.value))

with concurrent.futures.ThreadPoolExecutor(4) as pool:
    jobs = [pool.submit(read, path) for path in sys.argv[1:]]
    jobs += [pool.submit(speak, number) for number in range(50)]
    for job in jobs:
        job.result()
assert (stream.value, out.value) == before
libc.fflush(None)
"""


@pytest.fixture
def damaged(tmp_path):
    """MP3 that libmpg123 complains about."""
    random = np.random.default_rng(0)
    whole = encoded(sweep(4), "MP3")
    paths = []
    for number in range(8):
        content = bytearray(whole)
        for place in random.integers(300, len(content), 60):
            content[place] = random.integers(256)
        paths.append(str(tmp_path / f"{number}.mp3"))
        (tmp_path / f"{number}.mp3").write_bytes(content)
    packets = bytearray(encoded(sweep(1), "SDS", "PCM_16"))
    for at in range(21 + 127 * 9, len(packets), 127 * 9):
        packets[at] ^= 1
    (tmp_path / "a.sds").write_bytes(packets)
    paths.append(str(tmp_path / "a.sds"))
    (tmp_path / "noise.mp3").write_bytes(random.bytes(200_000))
    return [*paths, str(tmp_path / "noise.mp3")]


def test_nothing_of_it_is_shown_and_all_else_is(damaged):
    result = subprocess.run(
        [sys.executable, "-c", READER, *damaged], capture_output=True, text=True, check=True
    )
    lines = result.stderr.splitlines()
    assert "mpg123" not in result.stderr
    for word in ("descriptor", "python", "c"):
        assert lines.count(word) == 50
    assert result.stdout.count("error: ") == 1 and result.stdout.count("printed\n") == 50
    assert result.stdout.count("\n") == 51


def test_it_is_said_once_for_each_file(damaged, caplog, capfd):
    for path in damaged[:9]:
        whole = read_audio(path)
        np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 0.7))), whole)
    said = [line for line in caplog.messages if "has damaged packets" in line]
    assert len(said) > 2 and len(set(said)) == len(said)
    assert any("a.sds: has damaged packets" in line for line in said)
    assert "mpg123" not in capfd.readouterr().err and not capfd.readouterr().out


def test_a_child_of_the_moment_writes_where_its_parent_does(capfd):
    libc = ctypes.CDLL(None)
    stream = ctypes.c_void_p.in_dll(libc, "stderr")
    before = stream.value
    with complaints():
        assert stream.value != before
        child = os.fork()
        if child == 0:
            libc.fputs(b"of a child\n", ctypes.c_void_p(stream.value))
            with complaints():
                libc.fputs(b"mpg123: that is heard\n", ctypes.c_void_p(stream.value))
            os._exit(stream.value != before)
        assert os.waitpid(child, 0)[1] == 0
    assert stream.value == before
    assert capfd.readouterr().err == "of a child\n"


def test_several_at_a_time():
    """None ends before another's, nor hears what may be of another."""
    libc = ctypes.CDLL(None)
    stream = ctypes.c_void_p.in_dll(libc, "stderr")
    inside, outside = threading.Event(), threading.Event()
    heard = []

    def other():
        with complaints() as lines:
            inside.set()
            outside.wait(10)
            libc.fputs(b"[src/libmpg123/x.c] error: whose?\n", ctypes.c_void_p(stream.value))
        heard.append(lines)

    with complaints() as first:
        libc.fputs(b"[src/libmpg123/x.c] error: mine\n", ctypes.c_void_p(stream.value))
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait(10)
    outside.set()
    thread.join(10)
    assert first == [] and heard == [[]]
    with complaints() as lines:
        libc.fputs(b"[src/libmpg123/x.c] error: mine\n", ctypes.c_void_p(stream.value))
    assert lines == [b"[src/libmpg123/x.c] error: mine\n"]


def test_a_descriptor_that_others_have_closed_and_taken(tmp_path):
    """Their file is neither read nor cut short, and the next complaint is heard again."""
    libc = ctypes.CDLL(None)
    stream = ctypes.c_void_p.in_dll(libc, "stderr")
    before = stream.value
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"[src/libmpg123/x.c] error: not a complaint\n")
    with complaints():
        pass
    descriptors = [ear._descriptor for ear in audio_complaints._state.ears]
    with open(theirs, "rb") as file:
        with complaints() as heard:
            for number in descriptors:
                os.dup2(file.fileno(), number)
        assert heard == [] and stream.value == before
        with complaints() as heard:
            libc.fputs(b"[src/libmpg123/x.c] error: mine\n", ctypes.c_void_p(stream.value))
    assert heard == [b"[src/libmpg123/x.c] error: mine\n"]
    assert theirs.read_bytes() == b"[src/libmpg123/x.c] error: not a complaint\n"
    for number in descriptors:
        os.close(number)


def test_a_reader_that_has_gone_leaves_all_in_order():
    libc = ctypes.CDLL(None)
    streams = [ctypes.c_void_p.in_dll(libc, name) for name in ("stdout", "stderr")]
    before = [stream.value for stream in streams]
    saved = os.dup(1)
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    try:
        with complaints():
            libc.fputs(b"of another library\n", ctypes.c_void_p(streams[0].value))
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(writing)
    assert [stream.value for stream in streams] == before
