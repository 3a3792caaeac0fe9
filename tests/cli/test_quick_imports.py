"""fairseq without what it does not need at once: what is deferred comes when it is used."""

import gc
import gzip
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from cress_svcd.cli import quick_imports
from cress_svcd.cli.quick_imports import DEFERRED, StandIn, stand_ins, without_collections

ROOT = Path(__file__).parents[2]
# What a process has after importing fairseq so, at once and after it has used what was deferred.
PROCESS = """
import gc, json, sys
from cress_svcd.cli.quick_imports import quick_imports
with quick_imports():
    from cress_svcd.translation.translator import Translator
found = {"collects": gc.isenabled(), "imported": sorted(sys.modules)}
from hydra.core.config_store import ConfigStore
store = ConfigStore.instance()
found["stored at once"] = len(store.repo)
found["tasks"], found["models"] = sorted(store.list("task")), sorted(store.list("model"))
found["stored"] = len(store.repo)
store.store(name="later", group="task", node={"a": 1})
found["later"] = store.load("task/later.yaml").node.a
from fairseq.criterions.sentence_prediction import f1_score, pearsonr
from fairseq.tasks.audio_classification import sklearn_metrics
found["f1"] = f1_score([0, 1, 1], [0, 1, 0])
found["accuracy"] = sklearn_metrics.accuracy_score([1, 0], [1, 1])
found["correlation"] = pearsonr([1, 2, 3], [2, 4, 6])[0]
import sklearn
found["real"] = sklearn.__version__
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    command = [sys.executable, "-c", PROCESS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def test_fairseq_is_imported_without_what_nobody_uses(found):
    imported = set(found["imported"])
    assert {"fairseq.tasks", "cress_svcd.tasks", "torch"} <= imported
    assert not {"sklearn", "scipy", "pandas", "tensorboard", "torch.utils.tensorboard"} & imported
    assert found["collects"]


def test_what_is_deferred_comes_when_it_is_used(found):
    assert found["f1"] == pytest.approx(2 / 3) and found["accuracy"] == 0.5
    assert found["correlation"] == pytest.approx(1) and found["real"]


def test_hydra_has_all_options_when_it_is_asked_for_any(found):
    assert found["stored at once"] < found["stored"] and found["later"] == 1
    assert {"speech_and_text_translation.yaml", "translation.yaml"} <= set(found["tasks"])
    assert {"quant_transformer.yaml", "transformer_lm.yaml"} <= set(found["models"])


def test_a_stand_in_gives_way_to_the_real_module_afterwards(monkeypatch):
    monkeypatch.setattr(quick_imports, "DEFERRED", ("wave", "colorsys"))
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    import colorsys

    with stand_ins():
        import wave

        assert isinstance(wave, StandIn) and sys.modules["colorsys"] is colorsys
        opened = wave.open
    assert "wave" not in sys.modules
    import wave as real

    assert isinstance(real, types.ModuleType) and not isinstance(real, StandIn)
    with pytest.raises(FileNotFoundError):
        opened("nowhere.wav", "rb")


def test_what_is_missing_is_missed_when_it_is_used():
    absent = StandIn("nothing_of_this_name")
    used = absent.something
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        used()
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        print(used.attribute)
    with pytest.raises(AttributeError, match="__path__"):
        print(absent.__path__)


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_collected_as_before(collects):
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with without_collections():
            assert not gc.isenabled()
        assert gc.isenabled() == collects
    finally:
        gc.unfreeze()
        (gc.enable if before else gc.disable)()


def test_nothing_changes_where_fairseq_is_there():
    import fairseq
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.store
    with quick_imports.quick_imports():
        assert gc.isenabled() and ConfigStore.store is store and fairseq
        assert not any(isinstance(sys.modules.get(name), StandIn) for name in DEFERRED)


# In one process what the program does in its own.
TRANSLATE = """
import sys
from cress_svcd.cli.main import main
status = main(["translate", "packed.pt", "sweep.npy", "--no-segmentation", *sys.argv[1:]])
heavy = {"sklearn", "scipy", "pandas", "matplotlib", "tensorboard", "torch._dynamo", "torchaudio"}
print(status, sorted(heavy & sys.modules.keys()))
"""


@pytest.mark.parametrize("flags", [(), ("--quiet",)])
def test_a_translation_imports_what_it_uses_and_says_our_words_alone(tmp_path, flags):
    with gzip.open(ROOT / "tests" / "golden" / "packed.pt.gz") as file:
        (tmp_path / "packed.pt").write_bytes(file.read())
    time = np.arange(24_000) / 16_000
    np.save(tmp_path / "sweep.npy", (0.3 * np.sin(600 * time * (1 + time))).astype(np.float32))
    command = [sys.executable, "-c", TRANSLATE, *flags]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    text, imported = result.stdout.splitlines()
    assert text.strip() and imported == "0 []"
    lines = result.stderr.splitlines()
    assert not flags or not lines
    assert all(re.fullmatch(r"[\d:]+ \| INFO \| .+", line) for line in lines)
    assert bool(flags) != any("vocabulary from packed.pt" in line for line in lines)
