"""Importing the package costs nothing, and its plug-in is registered when it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cress_svcd.registration import FAIRSEQ, NEED_FAIRSEQ, PLUGIN

ROOT = Path(__file__).parents[1]
REGISTERED = """
from fairseq import checkpoint_utils, criterions, models, optim, scoring, tasks
from fairseq.optim import lr_scheduler
assert "speech_and_text_translation" in tasks.TASK_REGISTRY
assert "segment_hubert_pretraining" in tasks.TASK_REGISTRY
assert {"hubert_transformer", "quant_deltalm"} <= models.MODEL_REGISTRY.keys()
assert "speech_and_text_translation" in criterions.CRITERION_REGISTRY
assert "quant_adam" in optim.OPTIMIZER_REGISTRY
assert checkpoint_utils.load_checkpoint_to_cpu.explains_errors  # patched
"""


def run(code: str) -> str:
    """What the code prints on standard error."""
    command = [sys.executable, "-c", f"import sys\n{code}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not result.returncode, result.stderr[-3000:]
    return result.stderr


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(
            "import cress_svcd, cress_svcd.cli.main, cress_svcd.recipes.runner\n"
            "assert not {'torch', 'numpy', 'fairseq'} & sys.modules.keys()\n"
            "import fairseq",
            id="fairseq after the package",
        ),
        pytest.param("import fairseq.utils, cress_svcd", id="the package after fairseq"),
        pytest.param(
            "import cress_svcd.data.dataset as first\n"
            "import cress_svcd\n"
            "assert first is sys.modules['cress_svcd.data.dataset'] is cress_svcd.data.dataset\n"
            "assert first.__spec__.loader is first.__loader__\n"
            "from cress_svcd.tasks import datasets\n"
            "assert datasets.SpeechTranslationDataset is first.SpeechTranslationDataset",
            id="first a module in the middle of the plug-in",
        ),
        pytest.param(
            "import cress_svcd\n"
            "assert 'torch' not in sys.modules\n"
            "assert cress_svcd.quantization.BitLinear and 'fairseq' not in sys.modules\n"
            "assert cress_svcd.Translator.load and not hasattr(cress_svcd, 'nothing')",
            id="first an attribute of the package",
        ),
    ],
)
def test_it_registers_whatever_is_imported_first(code):
    run(code + REGISTERED)


def test_without_fairseq_the_lower_floors_work():
    run(
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'fairseq': raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "import cress_svcd.kernels, cress_svcd.quantization\n"
        "assert 'fairseq' not in sys.modules"
    )


def path_of(name: str) -> Path | None:
    path = ROOT / Path(*name.split("."))
    files = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


def imported_at_import(name: str) -> set[str]:
    """Dotted names of what a module of ours imports outside of its functions."""
    names: set[str] = set()
    for node in ast.parse(path_of(name).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    packages = {".".join(name.split(".")[:depth]) for depth in range(2, name.count(".") + 1)}
    return names | packages


def reached(name: str, seen: set[str]) -> set[str]:
    """All modules of ours that importing one imports."""
    if name not in seen and path_of(name) and name != "cress_svcd":
        seen.add(name)
        for other in imported_at_import(name):
            if other.startswith("cress_svcd"):
                reached(other, seen)
    return seen


def test_all_that_the_plug_in_imports_and_that_needs_fairseq_is_known():
    """Another one, imported first, would be in the middle of its import when fairseq is done."""
    of_plugin = reached(PLUGIN, set()) - {PLUGIN}
    assert len(of_plugin) > 50
    known = {
        name
        for name in of_plugin
        if any(name == one or name.startswith(f"{one}.") for one in NEED_FAIRSEQ)
    }
    unknown = {
        name
        for name in of_plugin - known
        if any(
            other.split(".")[0] == FAIRSEQ or other in NEED_FAIRSEQ
            for other in imported_at_import(name)
        )
    }
    assert not unknown
    assert all(path_of(name) for name in NEED_FAIRSEQ)


def test_it_leaves_the_root_logger_as_it_was():
    """Modules of fairseq would have it print whatever anybody logs."""
    printed = run(
        "import logging\n"
        "import cress_svcd\n"
        "assert cress_svcd.Translator and 'fairseq' in sys.modules\n"
        "root = logging.getLogger()\n"
        "assert (root.level, root.handlers) == (logging.WARNING, []), root\n"
    )
    assert not printed
    run(
        "import logging\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "handlers = list(logging.getLogger().handlers)\n"
        "from cress_svcd.translation.translator import Translator\n"
        "root = logging.getLogger()\n"
        "assert (root.level, root.handlers) == (logging.INFO, handlers), root\n"
    )
