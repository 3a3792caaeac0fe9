"""Models whose embeddings and convolutions were trained at few bits: packed, unpacked, averaged."""

import json

import pytest
import torch

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.inference.low_bits import widen_state
from cress_svcd.inference.packed_checkpoint import read_packed
from cress_svcd.translation.translator import Translator
from tests.helpers.quantized_checkpoints import RULES, quantize
from tests.helpers.translation_model import make_checkpoint

BITS = {"embedding": 2, "hubert": 3, "subsampler": 1}
TABLES = "encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection"


@pytest.fixture(scope="module")
def trained(prepared, hubert, tmp_path_factory):
    """A checkpoint whose steps are not their initial values."""
    folder = tmp_path_factory.mktemp("trained")
    full = make_checkpoint(folder / "st.pt", prepared, hubert)
    flags = [word for kind, bits in BITS.items() for word in (f"--quant-{kind}-bits", bits)]
    path = quantize(folder / "trained.pt", prepared, full, RULES["svcd"], *flags)
    state = torch.load(path, weights_only=True)
    steps = {name: value for name, value in state["model"].items() if name.endswith("log2_step")}
    for step in {id(value): value for value in steps.values()}.values():
        step.add_(torch.rand_like(step) - 0.7)
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def packed(trained):
    path = trained.with_name("packed.pt")
    assert main(["pack", str(trained), "-o", str(path), "--dtype", "fp32"]) == 0
    return path


@pytest.fixture(scope="module")
def waves(prepared, release):
    specs = read_manifest(prepared / "tst-COMMON.tsv")["audio"][:5]
    return [read_audio(spec, root=release / "en-de" / "data") for spec in specs]


def said(path, waves):
    """Translations in double precision: in single a rounding to 8 bits may tip over."""
    translator = Translator.load(path, beam=3, max_len_b=12, device="cpu", backend="reference")
    translator.model.double()
    return [(found.tokens, round(found.score, 3)) for found in translator.translate_batch(waves)]


def test_trained_packed_unpacked_and_averaged_say_the_same(trained, packed, waves, tmp_path):
    expected = said(packed, waves)
    assert len(set(expected)) == len(waves)
    assert said(trained, waves) == expected
    again, mean = tmp_path / "again.pt", tmp_path / "mean.pt"
    assert main(["unpack", str(packed), "-o", str(again)]) == 0
    assert said(again, waves) == expected
    assert main(["average", str(trained), str(trained), "-o", str(mean)]) == 0
    assert said(mean, waves) == expected
    for path in (again, mean):
        assert main(["pack", str(path), "-o", str(tmp_path / "p.pt"), "--dtype", "fp32"]) == 0
        theirs, ours = read_packed(tmp_path / "p.pt")["model"], read_packed(packed)["model"]
        assert theirs.keys() == ours.keys()
        for name in ours:
            if not name.endswith((".g", ".h")):
                torch.testing.assert_close(theirs[name], ours[name], rtol=1e-6, atol=0)


def test_the_file_has_the_trained_steps(trained, packed):
    state, given = read_packed(packed), torch.load(trained, weights_only=True)["model"]
    described = json.loads(state["cfg"]["model"]["packed"])["low_bits"]
    assert all(how["trained"] for how in described.values())
    for name, how in described.items():
        kind = name.split(".")[1]
        assert how["bits"] == BITS.get(kind, BITS["embedding"])
        assert state["model"][f"{name}.weight"].shape[1] == how["bits"]
        step = given[f"{name}.log2_step"].exp2()
        torch.testing.assert_close(state["model"][f"{name}.scale"], step / 2)
    assert not [name for name in state["model"] if name.endswith("log2_step")]
    memory = {state["model"][f"{name}.weight"].data_ptr() for name in TABLES}
    assert len(memory) == 1


def test_other_bits_than_the_trained_are_refused(trained, tmp_path, capsys):
    out = tmp_path / "x.pt"
    assert main(["pack", str(trained), "-o", str(out), "--hubert-bits", "4"]) == 2
    error = capsys.readouterr().err
    assert "trained.pt: --hubert-bits 4: it was trained at 3 with --quant-hubert-bits" in error
    assert not out.exists()


def test_int8_of_a_recipe_leaves_the_trained_bits_alone(trained, packed, tmp_path):
    out = tmp_path / "x.pt"
    flags = ["--int8-embeddings", "--int8-convolutions", "--hubert-bits", "3", "--dtype", "fp32"]
    assert main(["pack", str(trained), "-o", str(out), *flags]) == 0
    theirs, ours = read_packed(out)["model"], read_packed(packed)["model"]
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_it_is_exported(packed, tmp_path):
    pytest.importorskip("safetensors", reason="pip install 'cress_svcd[export]'")
    assert main(["export", str(packed), "-o", str(tmp_path / "m.cress")]) == 0
    exported, wide = read_packed(tmp_path / "m.cress")["model"], widen_state(read_packed(packed))
    assert exported.keys() == wide["model"].keys()
    assert all(torch.equal(exported[name], value) for name, value in wide["model"].items())
