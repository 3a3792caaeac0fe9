"""The models and recordings to try: what the page says that they say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "scripts" / "examples" / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(
    r"^```bash\n(cress-svcd translate [^\n]*)\n```\n\n```\n(.*?)```", PAGE, re.M | re.S
)


@pytest.mark.parametrize("command, words", SHOWN)
def test_a_shown_command_prints_what_is_shown(run, command, words):
    assert run(*command.split(), "--device", "cpu", cwd=ROOT).stdout == words


def test_they_are_small_and_all_named():
    files = {path.name: path.stat().st_size for path in (ROOT / "scripts" / "examples").iterdir()}
    assert sum(files.values()) < 3.5e6
    assert all(name == "README.md" or f"`{name}`" in PAGE for name in files)
    assert len(SHOWN) == 2
