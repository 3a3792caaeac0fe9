"""The demo's text is what it was, both languages, every file."""

import hashlib

import pytest

from cress_svcd.cli.main import main
from tests.golden.expected_values import expected

SENTENCES = "11000"  # as scripts/recipes/demo.yaml


@pytest.mark.parametrize("language", ["de", "ro"])
def test_the_demo_text(language, tmp_path):
    command = ["demo-text", "--tgt-lang", language, "-o", str(tmp_path), "--train", SENTENCES]
    assert main([*command, "--seed", "1"]) == 0
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(tmp_path.iterdir())
        if path.suffix != ".json"
    }
    assert len(found) == 8
    assert found == expected(f"demo text {language}", found)
