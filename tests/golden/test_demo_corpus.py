"""The demo corpus is what its generator wrote, both languages, every file."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.expected_values import expected

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo" / "unpack_text.py"


def unpack(language: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, "--tgt-lang", language, "-o", folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("language", ["de", "ro"])
def test_the_demo_corpus(language, tmp_path):
    result = unpack(language, tmp_path / "text")
    assert result.returncode == 0 and "11,000 sentences" in result.stdout
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((tmp_path / "text").iterdir())
    }
    assert len(found) == 8
    assert found == expected(f"demo text {language}", found)


def test_another_language_is_refused(tmp_path):
    result = unpack("fr", tmp_path / "text")
    assert result.returncode == 2 and "expected one of de, ro" in result.stderr
    assert not (tmp_path / "text").exists()
