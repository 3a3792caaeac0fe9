"""Packed models: the same words as the checkpoint's, small, and nothing damaged is read."""

import json
import shutil
import sys

import pytest
import torch
import yaml
from fairseq_cli import generate

from cress_svcd import kernels
from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import CheckpointError
from cress_svcd.inference.low_bits import widen_state
from cress_svcd.inference.packed_checkpoint import (
    VERSION,
    digest_of,
    read_packed,
    write_packed,
)
from cress_svcd.inference.packed_tensors import pack_tensors
from cress_svcd.inference.size_report import size_report
from cress_svcd.models.checkpoint_files import PACKED_HEADER
from cress_svcd.models.checkpoints import model_options, read_checkpoint
from cress_svcd.quantization import METHODS, quantized_layers
from cress_svcd.quantization.packing import packed_layers
from cress_svcd.quantization.policy import LayerSpec
from cress_svcd.translation.translator import Translator
from tests.helpers.fairseq_commands import generate_command
from tests.helpers.quantized_checkpoints import RULES, quantize
from tests.helpers.translation_model import make_checkpoint

SEARCH = {"beam": 3, "max_len_b": 12, "device": "cpu"}
LOW_BITS = ("--hubert-bits", "4", "--subsampler-bits", "3", "--embedding-bits", "2")
CPU_BACKENDS = [
    name for name, found in kernels.backends().items() if found.available and name != "gpu"
]


@pytest.fixture(scope="module")
def full(prepared, hubert, tmp_path_factory):
    """A full-precision checkpoint."""
    return make_checkpoint(tmp_path_factory.mktemp("full") / "st.pt", prepared, hubert)


@pytest.fixture(scope="module")
def quantized(prepared, full, tmp_path_factory):
    """Makes the quantised checkpoint of a name in RULES."""
    folder = tmp_path_factory.mktemp("quantized")

    def make(name):
        path = folder / f"{name}.pt"
        return path if path.exists() else quantize(path, prepared, full, RULES[name])

    return make


@pytest.fixture(scope="module")
def waves(prepared, release):
    specs = read_manifest(prepared / "tst-COMMON.tsv")["audio"][:5]
    return [read_audio(spec, root=release / "en-de" / "data") for spec in specs]


def command(name, *arguments, status=0) -> None:
    assert main([name, *map(str, arguments)]) == status


@pytest.fixture(scope="module")
def packed(quantized, tmp_path_factory):
    """Packs the checkpoint of a name with options; each once."""
    folder = tmp_path_factory.mktemp("packed")

    def pack(name, *options):
        path = folder / f"{name}{''.join(options)}.pt"
        if not path.exists():
            command("pack", quantized(name), "-o", path, *options)
        return path

    return pack


def require_same(first, second, tolerance=1e-4):
    """The same tokens, and scores within ``tolerance``, but for one sentence in which a rounding to
    8 bits has tipped over."""
    assert [one.tokens for one in first] == [one.tokens for one in second]
    pairs = zip(first, second, strict=True)
    differences = sorted(abs(one.score - other.score) for one, other in pairs)
    assert differences[-1] < 0.03 and all(value < tolerance for value in differences[:-1])


def load_double(path, **options):
    """In double precision, where hardly any sum in another order tips a rounding to 8 bits over:
    the random weights of these models make much of each."""
    translator = Translator.load(path, **SEARCH, backend="reference", **options)
    translator.model.double()
    return translator


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_packed_unpacked_and_trained_say_the_same(quantized, packed, waves, tmp_path, name):
    path = packed(name, "--dtype", "fp32")
    translator = load_double(path)
    assert packed_layers(translator.model) and not quantized_layers(translator.model)
    found = translator.translate_batch(waves)
    assert len({one.score for one in found}) == len(waves)
    require_same(load_double(quantized(name)).translate_batch(waves), found)
    command("unpack", path, "-o", tmp_path / "again.pt")
    again = load_double(tmp_path / "again.pt")
    assert quantized_layers(again.model).keys() == packed_layers(translator.model).keys()
    require_same(again.translate_batch(waves), found)


def test_a_packed_projection_leaves_the_embedding_alone(quantized, packed, waves, tmp_path):
    path = packed("projection", "--dtype", "fp32", "--int8-embeddings")
    found = load_double(path).translate_batch(waves)
    command("unpack", path, "-o", tmp_path / "again.pt")
    require_same(load_double(tmp_path / "again.pt").translate_batch(waves), found)
    trained = torch.load(quantized("projection"), weights_only=True)["model"]
    again = torch.load(tmp_path / "again.pt", weights_only=True)["model"]
    table = "decoder.embed_tokens.weight"
    torch.testing.assert_close(again[table], trained[table], rtol=0, atol=0.05)


@pytest.mark.parametrize("own_bits", [False, True], ids=["whole", "quantised"])
@pytest.mark.parametrize("flags", [("--dtype", "fp32"), ("--int8-embeddings",)], ids=str)
def test_a_ctc_head_is_kept_where_asked_for(own_bits, flags, prepared, hubert, waves, tmp_path):
    start = make_checkpoint(tmp_path / "st.pt", prepared, hubert, "--ctc-head")
    rules = [{"match": ["decoder.layers.*", *["encoder.ctc_head"] * own_bits]}]
    trained = quantize(tmp_path / "trained.pt", prepared, start, rules, "--ctc-head")
    command("pack", trained, "-o", tmp_path / "packed.pt", "--keep-ctc-head", *flags)
    command("unpack", tmp_path / "packed.pt", "-o", tmp_path / "again.pt")

    def heard(path):
        translator = Translator.load(path, beam=3, max_len_b=12, device="cpu", transcripts=True)
        return [one.transcript for one in translator.translate_batch(waves)]

    assert any(heard(tmp_path / "packed.pt"))
    assert heard(tmp_path / "packed.pt") == heard(tmp_path / "again.pt")
    if flags[-1] == "fp32":
        assert heard(tmp_path / "packed.pt") == heard(trained)


def test_a_ctc_head_that_is_not_there(quantized, tmp_path, capsys):
    out = tmp_path / "packed.pt"
    assert main(["pack", str(quantized("projection")), "-o", str(out), "--keep-ctc-head"]) == 2
    assert "has no CTC head to keep" in capsys.readouterr().err and not out.exists()


def test_a_quantised_ctc_head_is_left_out(prepared, hubert, waves, tmp_path):
    start = make_checkpoint(tmp_path / "st.pt", prepared, hubert, "--ctc-head")
    rules = [{"match": ["decoder.layers.*", "encoder.ctc_head"]}]
    trained = quantize(tmp_path / "trained.pt", prepared, start, rules, "--ctc-head")
    assert "encoder.ctc_head" in json.loads(model_options(trained)["quantization_map"])
    command("pack", trained, "-o", tmp_path / "packed.pt", "--dtype", "fp32")
    command("unpack", tmp_path / "packed.pt", "-o", tmp_path / "again.pt")
    assert "ctc_head" not in model_options(tmp_path / "again.pt")["quantization_map"]
    expected = load_double(trained).translate_batch(waves)
    for name in ("packed", "again"):
        require_same(load_double(tmp_path / f"{name}.pt").translate_batch(waves), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["svcd", "unrounded"])
def test_by_the_kernels_it_says_what_was_trained(quantized, packed, waves, name):
    path = packed(name, "--dtype", "fp32")
    expected = Translator.load(quantized(name), **SEARCH).translate_batch(waves)
    for backend in CPU_BACKENDS:
        for batch_seconds in (0, 60) if name == "unrounded" else (60,):
            options = {"backend": backend, "batch_seconds": batch_seconds}
            translator = Translator.load(path, **SEARCH, **options)
            require_same(translator.translate_batch(waves), expected, 1e-3)


@pytest.mark.parametrize(
    "options",
    [
        ("--dtype", "fp16"),
        ("--dtype", "bf16", "--int8-embeddings"),
        ("--int8-embeddings", "--int8-convolutions"),
        LOW_BITS,
        ("--dtype", "fp32", "--subsampler-bits", "1"),
    ],
    ids=" ".join,
)
def test_in_less_precision_it_says_what_its_unpacked_model_says(packed, waves, tmp_path, options):
    path = packed("unrounded", *options)
    found = load_double(path).translate_batch(waves)
    command("unpack", path, "-o", tmp_path / "again.pt")
    require_same(load_double(tmp_path / "again.pt").translate_batch(waves), found)
    full_size = packed("unrounded", "--dtype", "fp32").stat().st_size
    assert path.stat().st_size < full_size


def test_convolutions_in_bf16_are_nearly_those_of_fp32(packed, waves):
    features = []
    for options in (("--dtype", "fp32"), ("--bf16-convolutions", "--int8-convolutions")):
        model = Translator.load(packed("svcd", *options), **SEARCH).model
        wave = torch.from_numpy(waves[0]).unsqueeze(0)
        with torch.no_grad():
            found, _ = model.encoder.hubert._convolve(wave, torch.tensor([wave.shape[1]]))
        assert found.dtype == torch.float32
        features.append(found)
    assert (features[0] - features[1]).norm() < 0.03 * features[0].norm()


def test_its_sign_weights_and_scales_survive_unpacking_and_packing(packed, tmp_path):
    for options in (("--dtype", "fp32"), ("--int8-embeddings", "--int8-convolutions")):
        path = packed("svcd", *options)
        command("unpack", path, "-o", tmp_path / "again.pt")
        command("pack", tmp_path / "again.pt", "-o", tmp_path / "twice.pt", *options)
        first, second = read_packed(path)["model"], read_packed(tmp_path / "twice.pt")["model"]
        assert first.keys() == second.keys()
        exact = [name for name in first if not name.startswith("encoder.hubert.encoder.pos_conv.0")]
        assert [name for name in exact if not torch.equal(first[name], second[name])] == []


def test_fairseq_generate_says_the_same(packed, prepared, capsys, monkeypatch, tmp_path):
    command("unpack", packed("unrounded", "--int8-embeddings"), "-o", tmp_path / "again.pt")
    said = []
    for path in (packed("unrounded", "--int8-embeddings"), tmp_path / "again.pt"):
        capsys.readouterr()
        arguments = generate_command(prepared, path, "--max-len-b", "12")
        monkeypatch.setattr(sys, "argv", [str(word) for word in arguments])
        generate.cli_main()
        lines = capsys.readouterr().out.splitlines()
        said.append([line.split("\t")[::2] for line in lines if line.startswith("D-")])
    assert said[0] == said[1] and len(said[0]) == 12


def test_it_needs_no_data_folder(packed, prepared, waves, tmp_path):
    shutil.copy(packed("svcd"), tmp_path / "alone.pt")
    vocabulary = read_packed(tmp_path / "alone.pt")["vocabulary"]
    assert set(vocabulary) == {"config.yaml", "spm_unigram50.txt", "spm_unigram50.model"}
    assert b"audio_root" not in vocabulary["config.yaml"].numpy().tobytes()
    expected = Translator.load(packed("svcd"), data=prepared, **SEARCH).translate(waves[0])
    assert Translator.load(tmp_path / "alone.pt", **SEARCH).translate(waves[0]) == expected


def test_what_is_in_it(packed, quantized, tmp_path):
    path = packed("svcd")
    state = torch.load(path, weights_only=True)
    tensors = state["model"]
    assert {value.dtype for value in tensors.values()} == {torch.uint8, torch.float16}
    assert not [name for name in tensors if name.startswith("encoder.ctc_head")]
    layer = "decoder.layers.0.fc1"
    own = {name for name in tensors if name.startswith(layer)}
    assert own == {f"{layer}.{part}" for part in ("signs", "g", "h", "bias")}
    assert not state["cfg"]["model"]["finetuned_st_model"]
    # The file is no larger for the tie of embeddings and output projection.
    table = tensors["decoder.output_projection.weight"]
    assert table.data_ptr() == tensors["encoder.embed_tokens.weight"].data_ptr()


def test_the_same_input_gives_the_same_bytes(packed, quantized, tmp_path):
    options = ("--int8-embeddings", "--int8-convolutions")
    command("pack", quantized("svcd"), "-o", tmp_path / "again.pt", *options)
    assert (tmp_path / "again.pt").read_bytes() == packed("svcd", *options).read_bytes()


def test_fewer_bits_make_a_smaller_file_of_another_version(packed, tmp_path, waves):
    compact = packed("svcd", "--int8-embeddings", "--int8-convolutions")
    low = packed("svcd", *LOW_BITS)
    first, second = read_packed(compact), read_packed(low)
    assert [state[PACKED_HEADER]["version"] for state in (first, second)] == [1, 2]
    description = json.loads(second["cfg"]["model"]["packed"])["low_bits"]
    sizes = {name: second["model"][f"{name}.weight"].shape[1] for name in description}
    assert sizes == {name: how["bits"] for name, how in description.items()}
    assert {name.split(".")[1]: bits for name, bits in sizes.items()} == {
        "hubert": 4,
        "subsampler": 3,
        "embed_tokens": 2,
        "output_projection": 2,
    }
    tied = "encoder.embed_tokens.weight", "decoder.output_projection.weight"
    assert len({second["model"][name].data_ptr() for name in tied}) == 1
    wide = widen_state(second)
    assert wide["model"].keys() == first["model"].keys()
    for name, tensor in first["model"].items():
        assert (tensor.shape, tensor.dtype) == (
            wide["model"][name].shape,
            wide["model"][name].dtype,
        )
    assert low.stat().st_size < compact.stat().st_size
    # In memory it is the model of int8.
    model = Translator.load(low, **SEARCH).model.state_dict()
    assert all(torch.equal(model[name], wide["model"][name]) for name in wide["model"])


def test_planes_of_another_shape_are_refused(packed, tmp_path):
    state = read_packed(packed("svcd", *LOW_BITS))
    state.pop(PACKED_HEADER)
    name = "encoder.subsampler.conv_layers.0.weight"
    state["model"][name] = state["model"][name][:, :, 1:].clone()
    write_packed(tmp_path / "bad.pt", state)
    refused(tmp_path / "bad.pt", f"{name}: bit planes of shape")
    assert main(["unpack", str(tmp_path / "bad.pt"), "-o", str(tmp_path / "out.pt")]) == 2


@pytest.mark.parametrize("options", [[], ["--int8-embeddings"], ["--dtype", "fp32"], LOW_BITS])
def test_its_size_does_not_depend_on_how_the_checkpoint_was_made(
    quantized, prepared, tmp_path, options
):
    """A tied table in clones, as an average or another program leaves it; views of one memory."""
    state = read_checkpoint(quantized("svcd"))
    clones = {name: tensor.clone() for name, tensor in state["model"].items()}
    torch.save({**state, "model": clones}, tmp_path / "c")
    flat = torch.cat([v.flatten().float() for v in state["model"].values()])
    views, start = {}, 0
    for name, tensor in state["model"].items():
        views[name] = flat[start : start + tensor.numel()].view(tensor.shape).to(tensor.dtype)
        start += tensor.numel()
    torch.save({**state, "model": views}, tmp_path / "v")
    main(["average", str(quantized("svcd")), "-o", str(tmp_path / "a")])
    # Trained by files of long names.
    state["cfg"]["model"]["quant_policy"] = str(tmp_path / ("policy" * 20))
    state["cfg"]["task"] |= {"save_dir": "s" * 99, "feature_cache": str(tmp_path)}
    state["cfg"]["task"]["data"] = str(shutil.copytree(prepared, tmp_path / ("data" * 30)))
    torch.save(state, tmp_path / "p")
    paths = [quantized("svcd"), *(tmp_path / name for name in "cvpa")]
    packed = []
    for path in paths:
        out = path.with_suffix(".packed")
        assert main(["pack", str(path), "-o", str(out), *options]) == 0
        packed.append(out.read_bytes())
    sizes = [len(content) for content in packed]
    assert max(sizes) - min(sizes) < 200 and len(set(packed[:4])) == 1


@pytest.mark.parametrize("config_yaml", ["config.yaml", "settings/st.yaml"])
def test_its_vocabulary_may_lie_in_other_folders(
    packed, quantized, prepared, waves, tmp_path, config_yaml
):
    data = shutil.copytree(prepared, tmp_path / "data")
    config = yaml.safe_load((data / "config.yaml").read_text())
    (data / config_yaml).parent.mkdir(exist_ok=True)
    # Two files of one name.
    (data / "other" / "spm").mkdir(parents=True)
    (data / config["vocab_filename"]).rename(data / "other" / "same")
    model = data / config["bpe_tokenizer"]["sentencepiece_model"]
    model.rename(data / "other" / "spm" / "same")
    up = "../" if "/" in config_yaml else ""
    config["vocab_filename"] = f"{up}other/same"
    config["bpe_tokenizer"]["sentencepiece_model"] = f"{up}other/spm/same"
    (data / "config.yaml").unlink()
    (data / config_yaml).write_text(yaml.safe_dump(config))
    state = read_checkpoint(quantized("svcd"))
    state["cfg"]["task"] |= {"data": str(data), "config_yaml": config_yaml}
    torch.save(state, tmp_path / "model.pt")
    out = tmp_path / "packed.pt"
    assert main(["pack", str(tmp_path / "model.pt"), "-o", str(out), "--dtype", "fp32"]) == 0
    # In the folder that it came from it is found as well, also by what is unpacked.
    again = tmp_path / "unpacked.pt"
    assert main(["unpack", str(out), "-o", str(again)]) == 0
    assert read_checkpoint(again)["cfg"]["task"]["config_yaml"] == config_yaml
    found = [
        Translator.load(path, data=folder, **SEARCH).translate_batch(waves)
        for path, folder in ((out, data), (again, data), (again, None))
    ]
    assert main(["pack", str(again), "-o", str(tmp_path / "2.pt"), "--dtype", "fp32"]) == 0
    shutil.rmtree(data)
    found += [
        Translator.load(path, **SEARCH).translate_batch(waves)
        for path in (out, tmp_path / "2.pt", packed("svcd", "--dtype", "fp32"))
    ]
    assert [[each.text for each in one] for one in found] == [[each.text for each in found[-1]]] * 6
    assert found[0] == found[3] == found[5]


def test_at_most_1_1_bits_a_weight_at_base_size():
    sizes = {
        "encoder.hubert.encoder.layers.0": (768, 3072, 4),
        "encoder.layers.0": (512, 2048, 4),
        "decoder.layers.0": (512, 2048, 8),
    }
    spec = LayerSpec("svcd", METHODS["svcd"](8, 8).settings()).to_dict()
    for name, (width, inner, attention) in sizes.items():
        shapes = [(width, width)] * attention + [(inner, width), (width, inner)]
        tensors = {}
        for number, (out, inputs) in enumerate(shapes):
            tensors |= {
                f"{name}.{number}.weight": torch.randn(out, inputs),
                f"{name}.{number}.bias": torch.randn(out),
                f"{name}.{number}.g": torch.rand(inputs),
                f"{name}.{number}.h": torch.rand(out),
            }
        layers = {f"{name}.{number}": spec for number in range(len(shapes))}
        report = size_report(*pack_tensors(tensors, layers))
        assert report["quantized_weights"] == sum(out * inputs for out, inputs in shapes)
        assert 1 < report["bits_per_weight"] <= 1.1


def test_the_report(packed, quantized, tmp_path, capsys):
    command(
        "pack",
        quantized("svcd"),
        "-o",
        tmp_path / "m.pt",
        "--json",
        tmp_path / "sizes.json",
        "--int8-embeddings",
    )
    report = json.loads((tmp_path / "sizes.json").read_text())
    assert set(report["parts"]) == {
        "HuBERT front-end",
        "HuBERT transformer",
        "subsampler",
        "encoder",
        "decoder",
        "embeddings",
    }
    tensors = read_packed(tmp_path / "m.pt")["model"]
    layers = {name.removesuffix(".signs") for name in tensors if name.endswith(".signs")}
    held = sum(value.nbytes for name, value in tensors.items() if name.rpartition(".")[0] in layers)
    assert report["bits_per_weight"] == pytest.approx(
        8 * held / report["quantized_weights"], abs=1e-3
    )
    assert report["file_bytes"] == (tmp_path / "m.pt").stat().st_size
    # A table of 8 bits and a scale of 32 for each of its rows of 32.
    table = report["parts"]["embeddings"]
    assert table["fp32_bytes"] / table["bytes"] == pytest.approx(4 * 32 / 36)
    said = capsys.readouterr().out
    assert "HuBERT transformer" in said and "bits a weight, scales included" in said


# What is refused


def refused(path, message):
    for read in (
        lambda: Translator.load(path, **SEARCH),
        lambda: main(["unpack", str(path), "-o", str(path) + ".out"]) and pytest.fail("refused"),
    ):
        with pytest.raises((CheckpointError, pytest.fail.Exception)) as caught:
            read()
        if isinstance(caught.value, CheckpointError):
            assert path.name in str(caught.value)
            assert message in str(caught.value), str(caught.value)


def test_a_flipped_byte_is_found_or_does_no_harm(packed, tmp_path):
    """Wherever it lies: between the parts of the archive some bytes mean nothing."""
    original = packed("svcd").read_bytes()
    whole = digest_of(read_packed(packed("svcd")))
    path = tmp_path / "damaged.pt"
    found = 0
    for place in range(10, len(original), len(original) // 60):
        damaged = bytearray(original)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert digest_of(read_packed(path)) == whole
        except CheckpointError as error:
            assert "damaged.pt" in str(error)  # noqa: PT017 - most flips are found, not all
            found += 1
    assert found > 40


def test_a_damaged_tensor_is_refused_by_every_reader(packed, tmp_path):
    state = torch.load(packed("svcd"), weights_only=True)
    state["model"]["decoder.layers.0.fc1.signs"][0, 0] ^= 1
    torch.save(state, tmp_path / "damaged.pt")
    refused(tmp_path / "damaged.pt", "is damaged")


def test_a_truncated_file_is_refused(packed, tmp_path):
    content = packed("svcd").read_bytes()
    (tmp_path / "short.pt").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "short.pt", "truncated")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("version", VERSION + 1, f"format version {VERSION + 1}, and this program reads versions"),
        ("version", 0, "format version 0, and this program reads versions 1 to"),
        ("version", str(VERSION), f"format version '{VERSION}', and this program reads versions"),
        ("format", "another", "'another', expected 'cress_svcd packed model'"),
    ],
)
def test_newer_and_foreign_files_are_refused(packed, tmp_path, key, value, message):
    state = torch.load(packed("svcd"), weights_only=True)
    state[PACKED_HEADER][key] = value
    state[PACKED_HEADER]["digest"] = digest_of(state)
    torch.save(state, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", message)


def test_an_ordinary_checkpoint_is_no_packed_model(quantized, tmp_path, capsys):
    command("unpack", quantized("svcd"), "-o", tmp_path / "x.pt", status=2)
    assert "svcd.pt: is no packed model" in capsys.readouterr().err


def test_nothing_quantised_is_an_error_unless_asked_for(full, waves, tmp_path, capsys):
    command("pack", full, "-o", tmp_path / "x.pt", status=2)
    assert "st.pt: nothing in it is quantised (arch hubert_transformer)" in capsys.readouterr().err
    assert not (tmp_path / "x.pt").exists()
    command("pack", full, "-o", tmp_path / "x.pt", "--allow-full", "--dtype", "fp32")
    found = Translator.load(tmp_path / "x.pt", **SEARCH).translate_batch(waves)
    require_same(found, Translator.load(full, **SEARCH).translate_batch(waves))


def test_a_packed_model_is_not_trained_on_or_packed_again(packed, tmp_path, capsys):
    path = packed("svcd")
    for read in (read_checkpoint, model_options):
        with pytest.raises(CheckpointError, match="is a packed model, which translates only"):
            read(path)
    command("pack", path, "-o", tmp_path / "x.pt", status=2)
    assert "is a packed model" in capsys.readouterr().err


def test_values_beyond_the_precision_are_refused(quantized, tmp_path, capsys):
    state = torch.load(quantized("svcd"), weights_only=True)
    state["model"]["decoder.layers.0.fc1.h"][0] = 1e6
    torch.save(state, tmp_path / "large.pt")
    command("pack", tmp_path / "large.pt", "-o", tmp_path / "x.pt", status=2)
    said = capsys.readouterr().err
    assert "decoder.layers.0.fc1.h: holds NaN or infinity as fp16" in said and "bf16" in said
    command("pack", tmp_path / "large.pt", "-o", tmp_path / "x.pt", "--dtype", "bf16")


def test_a_wrong_vocabulary_is_refused(quantized, tmp_path, capsys):
    state = torch.load(quantized("svcd"), weights_only=True)
    state["task_state"]["dictionary_digest"] = "other"
    torch.save(state, tmp_path / "other.pt")
    command("pack", tmp_path / "other.pt", "-o", tmp_path / "x.pt", status=2)
    assert "trained with another dictionary" in capsys.readouterr().err
