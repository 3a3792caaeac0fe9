"""The engine against fairseq's search over the Python model: the same words and scores."""

import math
import re
import struct
import subprocess

import pytest
import soundfile
import torch

from cress_svcd.data.audio import read_audio, standardize
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import CheckpointError
from cress_svcd.inference.packed_checkpoint import read_packed
from cress_svcd.quantization import METHODS
from cress_svcd.translation.repetition import repeats_itself
from cress_svcd.translation.search import NO_REPEAT, NoRepeat
from cress_svcd.translation.translator import Translator
from tests.helpers.quantized_checkpoints import RULES

BEAM, LENGTH = 3, 12
OPTIONS = ("--beam", BEAM, "--max-len-b", LENGTH, "--nbest", BEAM)
COMPACT = ("--int8-embeddings", "--int8-convolutions")


@pytest.fixture(scope="module")
def recordings(prepared, release, tmp_path_factory):
    """Segments of the test set, a WAV file each."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = []
    for number, spec in enumerate(read_manifest(prepared / "tst-COMMON.tsv")["audio"][:5]):
        wave = read_audio(spec, root=release / "en-de" / "data")
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], wave, 16000, subtype="FLOAT")
    return paths


def by_fairseq(path, recordings, dtype=torch.float32) -> list[list[tuple[float, str]]]:
    """Scores and texts of each recording's hypotheses, as fairseq-generate makes them."""
    translator = Translator.load(path, beam=BEAM, max_len_b=LENGTH, device="cpu")
    translator.model.to(dtype)
    results = []
    for recording in recordings:
        wave, _ = soundfile.read(recording, dtype="float32")
        if translator.task.data_cfg.normalize:
            wave = standardize(wave)
        batch = {
            "src_tokens": torch.from_numpy(wave)[None].to(dtype),
            "src_lengths": torch.tensor([len(wave)]),
        }
        generator = translator.generator
        for no_repeat in (None, NoRepeat(NO_REPEAT)):  # again where the best repeats itself
            generator.repeat_ngram_blocker = no_repeat
            with torch.no_grad():
                (found,) = generator.generate([translator.model], {"net_input": batch})
            tokens = [translator.task.tgt_dict.string(one["tokens"]) for one in found]
            if not repeats_itself(translator.search.text_of(tokens[0]), tokens[0].split()):
                break
        scores = [float(one["score"]) / math.log(2) for one in found]
        results.append(list(zip(scores, map(translator.search.text_of, tokens), strict=True)))
    return results


def require_same(expected, found, tolerance=1e-3):
    assert [[text for _, text in each] for each in found] == [
        [text for _, text in each] for each in expected
    ]
    for one, other in zip(sum(expected, []), sum(found, []), strict=True):
        assert other[0] == pytest.approx(one[0], abs=tolerance)


LOW_BITS = ("--embedding-bits", "4", "--hubert-bits", "3", "--subsampler-bits", "2")
PRECISIONS = [("--dtype", "fp32"), ("--dtype", "bf16"), (), COMPACT, LOW_BITS]


@pytest.mark.parametrize("precision", PRECISIONS, ids=" ".join)
def test_a_model_in_full_precision_says_the_same(exported, recordings, translate, precision):
    packed, cress = exported("full", "--allow-full", *precision)
    found = translate(cress, recordings, *OPTIONS)
    tolerance = 1e-2 if precision in (COMPACT, LOW_BITS) else 1e-3
    require_same(by_fairseq(packed, recordings), found, tolerance)


def test_its_scores_are_those_of_double_precision(exported, recordings, translate):
    """Random weights make 4e-4 to 1e-3 of a score of the last places that torch's float32 loses
    where the first convolution is normalised."""
    packed, cress = exported("full", "--allow-full", "--dtype", "fp32")
    expected = by_fairseq(packed, recordings, torch.float64)
    require_same(expected, translate(cress, recordings, *OPTIONS), 2e-4)


def test_rows_that_are_split_into_two_bytes_say_the_same(exported, recordings, translate):
    packed, cress = exported("unrounded", "--dtype", "fp32")
    require_same(by_fairseq(packed, recordings), translate(cress, recordings, *OPTIONS), 1e-2)


# Methods that do more around the product than the engine knows words for.
OTHERS = {name for name, method in METHODS.items() if method.ADDS_BESIDE_PRODUCT}


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"mixed", "unrounded"} - OTHERS))
def test_every_method_says_the_same(exported, recordings, translate, name):
    """But for activations that a difference in a float's last place rounds to another integer."""
    packed, cress = exported(name)
    found, expected = translate(cress, recordings, *OPTIONS), by_fairseq(packed, recordings)
    pairs = [(one[0], other[0]) for one, other in zip(expected, found, strict=True)]
    same = [one for one in pairs if one[0][1] == one[1][1]]
    assert len(same) >= len(pairs) - 1
    for (score, _), (other, _) in same:
        assert other == pytest.approx(score, abs=0.05)


@pytest.mark.parametrize("name", ["mixed", *sorted(OTHERS)])
def test_what_it_cannot_compute_it_says(exported, recordings, engine, name):
    _, cress = exported(name)  # "mixed": of SVCD's variant paper
    done = subprocess.run(
        [engine, "translate", cress, recordings[0]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("cress: error: ") and len(done.stderr.splitlines()) == 1
    assert ("svcd" if name == "mixed" else name) in done.stderr


def test_python_reads_the_same_packed_model(exported):
    packed, cress = exported("mixed", *COMPACT)
    first, second = read_packed(packed), read_packed(cress)
    assert first["packed"] == second["packed"] and first["model"].keys() == second["model"].keys()
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])


def test_python_translates_from_it(exported, recordings):
    packed, cress = exported("everything")
    first, second = (
        Translator.load(path, beam=BEAM, max_len_b=LENGTH, device="cpu").translate_batch(recordings)
        for path in (packed, cress)
    )
    assert [(one.text, one.score) for one in first] == [(one.text, one.score) for one in second]


@pytest.mark.parametrize("at", [0, 4, 8, 100, 5000, -200, -1])
def test_a_damaged_file_is_an_error(exported, recordings, engine, tmp_path, at):
    content = bytearray(exported("everything")[1].read_bytes())
    content[at] ^= 0x15
    path = tmp_path / "damaged.cress"
    for damaged in (content, content[: len(content) // 2]):
        path.write_bytes(damaged)
        command = [engine, "translate", path, recordings[0]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"cress: error: {path}: ") and done.stderr.count("\n") == 1
        with pytest.raises(CheckpointError, match=path.name):
            read_packed(path)


def test_a_file_without_a_checksum_translates(exported, recordings, translate, tmp_path):
    """One of before there were any."""
    content = exported("everything")[1].read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, former = content[8 : 8 + size], tmp_path / "former.cress"
    header, count = re.subn(rb',"crc32":"[0-9a-f]{8}"|"crc32":"[0-9a-f]{8}",', b"", header)
    assert count == 1
    former.write_bytes(struct.pack("<Q", size) + header.ljust(size) + content[8 + size :])
    expected = translate(exported("everything")[1], recordings, *OPTIONS)
    assert translate(former, recordings, *OPTIONS) == expected
    assert read_packed(former)["packed"]


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512_vnni"])
def test_instruction_sets_agree(exported, recordings, translate, engine, isa):
    _, cress = exported("full", "--allow-full", *COMPACT)
    try:
        found = translate(cress, recordings, *OPTIONS, "--isa", isa)
    except subprocess.CalledProcessError as error:
        if f"found {isa}, and this processor has" not in error.stderr:
            raise
        pytest.skip(f"this processor has no {isa}")
    require_same(translate(cress, recordings, *OPTIONS), found, 1e-2)
