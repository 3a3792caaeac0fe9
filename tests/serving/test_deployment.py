"""The container file and the service of the docs: what they copy exists, what they start is ours.

Nothing is built: hadolint and a builder are for people who have them.
"""

import configparser
import fnmatch
import json
import re
import shlex
from pathlib import Path

from cress_svcd.cli.main import build_command_parser

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "scripts" / "Dockerfile").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def test_the_container_serves_what_was_copied_into_it():
    found = instructions()
    assert [name for name, _ in found].count("FROM") == 2
    start = [
        word for name, value in found if name in ("ENTRYPOINT", "CMD") for word in json.loads(value)
    ]
    assert Path(start[0]).name == "cress-svcd"
    args = build_command_parser(start[1]).parse_args(start[2:])
    copies = {
        target: source
        for name, value in found
        if name == "COPY" and "--from" not in value
        for source, target in [value.split()]
    }
    assert all((ROOT / source).exists() for source in copies.values())
    for model in args.models:
        assert (ROOT / copies["/models"] / Path(model).name).is_file()
    assert dict(found)["USER"].split(":")[0] != "0"
    assert dict(found)["EXPOSE"] == str(args.port)


def test_what_the_container_needs_is_not_left_out():
    rules = (ROOT / "scripts" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((ROOT / path).exists() for path in kept)
    built = ["cress_svcd/shipped.py", "configs/quant", "scripts/demo/text", "scripts/recipes"]
    for path in [*built, "scripts/pins.txt", "pyproject.toml", "setup.py", "README.md", "LICENSE"]:
        assert any(fnmatch.fnmatch(path, f"{rule}*") for rule in kept), path


def test_the_service_of_the_docs_starts_the_server():
    (unit,) = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    parsed = configparser.ConfigParser(strict=True, interpolation=None)
    parsed.optionxform = str
    parsed.read_string(unit)
    assert set(parsed) == {"DEFAULT", "Unit", "Service", "Install"}
    words = shlex.split(parsed["Service"]["ExecStart"])
    assert Path(words[0]).name == "cress-svcd"
    args = build_command_parser(words[1]).parse_args(words[2:])
    assert args.models and args.grace_seconds < int(parsed["Service"]["TimeoutStopSec"])
