"""Who may know whom; what lies where."""

import argparse
import ast
import graphlib
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cress_svcd.cli.main import COMMANDS
from cress_svcd.quantization.methods import METHODS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cress_svcd"

# Each folder and those of the package that it may import; all may use what lies next to them.
# The modules next to the folders are the ground: all may use them, and they know no folder.
GROUND = {"errors": set(), "atomic_files": {"errors"}, "registration": set(), "shipped": set()}
BELOW_MODELS = {"kernels", "quantization", "data"}
MAY_IMPORT = {
    "kernels": set(),
    "quantization": {"kernels"},
    "recipes": set(),
    "data": {"recipes"},
    "models": BELOW_MODELS,
    "inference": {*BELOW_MODELS, "models"},
    "training": {*BELOW_MODELS, "models", "inference"},
    "pretraining": {*BELOW_MODELS, "models", "inference", "training", "recipes"},
    "tasks": {*BELOW_MODELS, "models", "training", "inference"},
    "translation": {*BELOW_MODELS, "models", "inference", "tasks"},
    "serving": {"data", "translation"},
    "evaluation": {*BELOW_MODELS, "models", "inference", "tasks", "translation"},
    "cli": {
        *BELOW_MODELS,
        "models",
        "inference",
        "training",
        "pretraining",
        "tasks",
        "translation",
        "evaluation",
        "serving",
        "recipes",
    },
}
TOP_LEVEL = {
    "cress_svcd",
    "native",
    "configs",
    "scripts",
    "tests",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs",
    "setup.py",
    "MANIFEST.in",
    "pyproject.toml",
    "LICENSE",
}


def modules(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a module imports, wherever in it."""
    package = (".".join(path.relative_to(ROOT).with_suffix("").parts)).rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{parent}.{base}".rstrip(".")
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def floors(path: Path) -> set[str]:
    """Parts of our package that a module imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("cress_svcd.")}


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_no_floor_knows_of_one_above(floor):
    allowed = MAY_IMPORT[floor] | GROUND.keys() | {floor, "__version__"}
    wrong = {
        str(path.relative_to(ROOT)): sorted(floors(path) - allowed)
        for path in modules(floor)
        if floors(path) - allowed
    }
    assert not wrong


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_knows_of_no_floor(name):
    path = PACKAGE / f"{name}.py"
    assert floors(path) <= GROUND[name]
    assert PACKAGE.name not in imported(path)  # the whole package, which imports all models


def test_every_module_next_to_the_folders_is_ground():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "plugin", *GROUND}


def test_every_folder_is_a_floor():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= set(MAY_IMPORT)


@pytest.mark.parametrize("floor", ["kernels", "quantization"])
def test_the_lower_floors_need_no_fairseq(floor):
    users = [str(path) for path in modules(floor) if "fairseq" in packages(path)]
    assert not users


@pytest.mark.parametrize(
    "name",
    [
        "audio",
        "audio_chunks",
        "audio_complaints",
        "audio_containers",
        "audio_damage",
        "audio_decoding",
        "audio_flac",
        "audio_mixing",
        "audio_mp3",
        "audio_npy",
        "audio_ogg",
        "audio_rare",
        "audio_samples",
        "audio_streams",
        "audio_views",
        "corpus/audio_checks",
        "corpus/manifest",
        "corpus/mustc",
        "corpus/segment_rows",
        "corpus/split_report",
        "corpus/text",
        "corpus/usable_segments",
    ],
)
def test_reading_data_needs_no_torch(name):
    assert not packages(PACKAGE / "data" / f"{name}.py") & {"torch", "fairseq"}


def test_corpora_are_read_without_fairseq():
    """But what fairseq reads back, binary text and pruned models, is written with its classes."""
    users = {path.stem for path in modules("data/corpus") if "fairseq" in packages(path)}
    assert users == {"binary_text", "vocabulary_pruning"}


def test_no_module_leads_back_to_itself():
    """Imports at the top of modules, which run when these are imported, make no circle."""
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = path
    edges = {
        name: {known(found, graph) for found in imported(path)} for name, path in graph.items()
    }
    edges = {name: {to for to in found if to} - {name} for name, found in edges.items()}
    tuple(graphlib.TopologicalSorter(edges).static_order())  # a CycleError names the circle
    assert len(edges) > 100


def known(name: str, graph: dict[str, Path]) -> str | None:
    """The module of ours that an imported name is, or is of."""
    return name if name in graph else known(name.rpartition(".")[0], graph) if "." in name else None


def test_the_table_and_the_choice_of_a_back_end_alone_know_triton():
    users = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "kernels/triton" not in str(path)
        and any(
            name.split(".")[0] == "triton" or name.startswith("cress_svcd.kernels.triton")
            for name in imported(path)
        )
    }
    assert users == {"kernels/dispatch.py", "kernels/backend_choice.py"}


def test_a_method_is_named_by_its_own_file_alone():
    """And by configuration: the presets, and a policy's default."""
    own = {PACKAGE / "quantization" / "methods" / f"{name}.py" for name in METHODS}
    own |= {PACKAGE / "quantization" / f"{name}.py" for name in ("svcd", "svcd_paper", "presets")}
    own.add(PACKAGE / "quantization" / "policy.py")
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in set(PACKAGE.rglob("*.py")) - own
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in METHODS
    ]
    assert not named


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_module_with_its_help(name):
    module = importlib.import_module(f"cress_svcd.cli.{name.replace('-', '_')}")
    assert len(module.__doc__.splitlines()) > 2 and f"cress-svcd {name}" in module.__doc__
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert callable(module.run)
    assert not [action.dest for action in parser._actions if not action.help]


def test_the_top_level_holds_only_what_was_agreed():
    result = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if result.returncode:
        pytest.skip("not a git checkout")
    entries = {line.split("/")[0] for line in result.stdout.splitlines()}
    assert {entry for entry in entries if not entry.startswith(".")} <= TOP_LEVEL


LONGEST_FUNCTION = 60
# A Triton kernel, with an argument a line.
LONGER_FUNCTIONS = {"_bitplane_kernel"}


def test_functions_are_short():
    """Docstring included, decorators not."""
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and node.name not in LONGER_FUNCTIONS
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert not long


C_SOURCES = [
    path
    for folder in ("native", "cress_svcd/kernels/cpu/csrc")
    for path in sorted((ROOT / folder).rglob("*.[ch]"))
]
LONGEST_FILE = 450


def c_functions(text: str) -> Iterator[tuple[str, int]]:
    """First line and length of each function, by the braces at the beginning of lines."""
    lines = text.splitlines()
    for stop in (number for number, line in enumerate(lines) if line == "}"):
        brace = max((number for number in range(stop) if lines[number] == "{"), default=None)
        if brace is None or "}" in lines[brace:stop]:
            continue
        start = brace
        while start and lines[start - 1] and not lines[start - 1].endswith(("}", ";", "*/")):
            start -= 1
        yield lines[start], stop - start + 1


def test_c_is_short_too():
    files = {path: path.read_text(encoding="utf-8") for path in C_SOURCES}
    assert not [path for path, text in files.items() if text.count("\n") > LONGEST_FILE]
    found = [(path, *one) for path, text in files.items() for one in c_functions(text)]
    assert len(found) > 400
    assert not [one for one in found if one[-1] > LONGEST_FUNCTION]


def test_the_sources_of_the_engine_are_all_in_its_readme():
    readme = (ROOT / "native" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)\.[ch]`", readme))
    assert {path.stem for path in (ROOT / "native" / "src").glob("*.[ch]")} <= named
    for twin in re.findall(r"`((?:cli|data|inference|models|translation)/[\w/]+\.py)`", readme):
        assert (PACKAGE / twin).is_file(), twin


def test_library_code_does_not_print():
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "cli" and path.name != "runner.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert not printing


def test_progress_bars_are_for_terminals():
    always = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "tqdm"
        and "disable" not in {keyword.arg for keyword in node.keywords}
    ]
    assert not always


def test_nothing_is_executed_that_comes_from_a_file():
    """No unsafe unpickling, no eval, no shell."""
    forbidden = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                unsafe = any(
                    (word.arg, getattr(word.value, "value", None))
                    in (("weights_only", False), ("shell", True), ("allow_pickle", True))
                    for word in node.keywords
                )
                if unsafe or name in ("eval", "exec", "os.system", "pickle.load", "pickle.loads"):
                    forbidden.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert not forbidden
