"""More threads than can run are one line, wherever they are asked for."""

import os
import subprocess
import sys

import pytest
import torch

from cress_svcd.cli.main import main
from cress_svcd.errors import ConfigError
from cress_svcd.kernels.cpu import sign_gemm
from cress_svcd.translation import threads
from cress_svcd.translation.options import TranslatorOptions, choose_device

TOO_MANY = 100_000


def test_the_kernels_have_the_same_limit():
    assert sign_gemm.MOST_THREADS == threads.MOST_THREADS
    assert sign_gemm.bounded(TOO_MANY, 1) == threads.MOST_THREADS


@pytest.mark.parametrize("count", [0, -1, TOO_MANY])
def test_an_option(count):
    with pytest.raises(ConfigError, match=f"threads is {count}, expected 1 to .*core"):
        TranslatorOptions(threads=count)


@pytest.mark.parametrize(
    "command",
    [
        ("translate", "m.pt", "a.wav", "--threads"),
        ("score", "out.txt", "--threads"),
        ("prepare-mustc", "root", "--tgt-lang", "de", "-o", "out", "--workers"),
        ("extract-features", "h.pt", "data", "--workers"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("count", [-1, TOO_MANY, "many"])
def test_a_command(command, count, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, str(count)])
    assert ended.value.code == 2
    assert f"argument {command[-1]}:" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_a_variable(name, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "cress_svcd.cli.main", "translate", tmp_path / "m.pt", "a.wav"],
        env={**os.environ, name: f"{TOO_MANY},2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert f"{name} is {TOO_MANY}, expected 1 to" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["cpu:9", "cuda:-1", "meta", "mps:-2", "cpu:", "", "cpu:0:0"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(ConfigError, match="device .*expected cpu|no GPU here") as told:
        choose_device(name)
    assert "\n" not in str(told.value)


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cpu:0").type == "cpu"
    if torch.cuda.is_available():
        with pytest.raises(ConfigError, match="there is no such one"):
            choose_device(f"cuda:{torch.cuda.device_count()}")
