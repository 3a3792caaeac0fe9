"""The library for programs in C: its names and its version."""

import re
import shutil
import subprocess

import pytest

from tests.native.conftest import NATIVE

# Names that any program may have; sums of another kind would come out if the library called them.
OWN_NAMES = """
#include <stdio.h>
#include <stdlib.h>
#include "cress.h"

float dot(void) { abort(); }
float softmax(void) { abort(); }
float log_softmax(void) { abort(); }

int main(int count, char **arguments)
{
    char message[200];
    cress_model *model;
    cress_translator *translator;
    float *samples;
    size_t length;
    int rate;
    if (count != 3 || cress_model_load(arguments[1], &model, message, sizeof message) ||
        cress_translator_create(model, NULL, &translator, message, sizeof message) ||
        cress_read_wav(arguments[2], &samples, &length, &rate, message, sizeof message) ||
        cress_begin(translator, rate) || cress_feed(translator, samples, length) ||
        cress_finish(translator))
        return 1;
    while (cress_next(translator) == 1)
        puts(cress_text(translator, 0));
    return 0;
}
"""


def link(source, engine, name, program):
    library = [engine.parent / name, f"-Wl,-rpath,{engine.parent}", "-lm", "-pthread"]
    command = ["cc", f"-I{NATIVE / 'include'}", source, *library, "-o", program]
    subprocess.run([*map(str, command)], check=True)


@pytest.mark.parametrize("name", ["libcress.a", "libcress.so"])
def test_all_names_are_its_own(engine, name):
    if not shutil.which("nm"):
        pytest.skip("no nm: apt-get install binutils")
    which = "-D" if name.endswith(".so") else "-g"
    command = ["nm", which, "--defined-only", engine.parent / name]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in done.stdout.splitlines() if len(line.split()) == 3]
    assert "cress_translate" in names
    assert [each for each in names if not each.startswith("cress_")] == []


@pytest.mark.parametrize("name", ["libcress.a", "libcress.so"])
def test_a_program_may_have_functions_of_the_same_names(exampled, engine, voice, tmp_path, name):
    (tmp_path / "own.c").write_text(OWN_NAMES)
    link(tmp_path / "own.c", engine, name, tmp_path / "own")
    done = subprocess.run(
        [tmp_path / "own", exampled, voice], capture_output=True, text=True, check=False
    )
    command = [engine, "translate", exampled, voice]
    expected = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.returncode == 0 and done.stdout == expected.stdout != ""


def test_its_version_is_that_of_the_wheel(engine):
    module = (NATIVE / "python" / "cress_runtime" / "__init__.py").read_text()
    version = re.search(r'^__version__ = "(.*)"', module, re.MULTILINE)[1]
    done = subprocess.run([engine, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"cress {re.escape(version)}, \w+\n", done.stdout)
