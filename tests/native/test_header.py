"""The interface as a C programmer meets it: what the header promises, and the example."""

import subprocess
from pathlib import Path

import pytest
import soundfile

from tests.native.conftest import NATIVE

HERE = Path(__file__).parent
STRICT = ["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror"]


@pytest.fixture(scope="module")
def installed(engine, tmp_path_factory):
    """What ``make install`` gives a program: a folder with include and lib."""
    folder = tmp_path_factory.mktemp("prefix")
    command = ["make", "-s", "-C", NATIVE, f"BUILD={engine.parent}", f"PREFIX={folder}", "install"]
    subprocess.run([*map(str, command)], check=True)
    return folder


@pytest.fixture(scope="module")
def compiled(installed, tmp_path_factory):
    """A program of a source, with a compiler and its flags."""
    folder = tmp_path_factory.mktemp("programs")

    def compile(source, *flags) -> Path:
        made = folder / source.stem
        command = ["cc", *flags, f"-I{installed}/include", source]
        command += [installed / "lib" / "libcress.a", "-lm", "-pthread", "-o", made]
        subprocess.run([*map(str, command)], check=True)
        return made

    return compile


@pytest.fixture(scope="module")
def files(exampled, voice):
    """A model and a recording."""
    return exampled, voice


def run(program, *arguments, **options) -> subprocess.CompletedProcess:
    command = [*map(str, (program, *arguments))]
    return subprocess.run(command, capture_output=True, check=False, **options)


def test_the_header_keeps_its_promises(compiled, files):
    done = run(compiled(HERE / "header.c", "-D_GNU_SOURCE", *STRICT), *files)
    assert (done.returncode, done.stdout.decode()) == (0, "")


def test_the_example_translates_a_file_and_a_stream(compiled, files, engine):
    talk = compiled(NATIVE / "examples" / "talk.c", *STRICT)
    model, voice = files
    said = run(engine, "translate", *files).stdout.decode().splitlines()
    done = run(talk, model, voice)
    assert done.returncode == 0
    assert [line.split(None, 2)[2] for line in done.stdout.decode().splitlines()] == said
    samples = soundfile.read(voice, dtype="int16")[0]
    done = run(talk, model, input=samples.tobytes())
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(said)
    for arguments in ((model, "missing.wav"), ("missing.cress", voice), ()):
        done = run(talk, *arguments)
        assert done.returncode == 1 and done.stderr.startswith(b"talk: ")
        assert len(done.stderr.splitlines()) == 1


def test_the_header_is_one_of_c_plus_plus(installed, tmp_path):
    source = tmp_path / "program.cpp"
    source.write_text('#include "cress.h"\nint main() { cress_model_free(nullptr); }\n')
    command = ["c++", "-Wall", "-Werror", f"-I{installed}/include", source]
    command += [installed / "lib" / "libcress.a", "-lm", "-pthread", "-o", tmp_path / "program"]
    subprocess.run([*map(str, command)], check=True)
    assert run(tmp_path / "program").returncode == 0
