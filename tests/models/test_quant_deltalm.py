"""DeltaLM under a policy: every layer of it is reached, fc3 and fc4 too."""

import pytest
import torch
from fairseq.dataclass.utils import merge_with_parent
from fairseq.models import MODEL_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from cress_svcd.quantization import count_calls, quantized_layers
from tests.helpers.deltalm_files import TINY, TINY_HEADS
from tests.helpers.training_options import make_task

DECODER_ONLY = {"deltalm_decoder_only": True, "encoder_layers": 1, "encoder_ffn_embed_dim": 48}


@pytest.fixture(scope="module")
def task(prepared):
    return make_task(prepared, "--st-training")


@pytest.fixture(scope="module")
def batch(task):
    task.load_dataset("dev")
    dataset = task.dataset("dev")
    return dataset.collater([dataset[i] for i in range(4)])["net_input"]


def config(arch, **options):
    positions = {"max_source_positions": 64, "max_target_positions": 64, "conv_channels": 24}
    if arch == "quant_deltalm":
        positions.pop("conv_channels")
    cfg = OmegaConf.create({"_name": arch, **positions, **options})
    cfg = merge_with_parent(MODEL_DATACLASS_REGISTRY[arch](), cfg)
    cfg._name = arch
    return cfg


@pytest.fixture(scope="module", params=["whole", "decoder only"])
def start(request, task, hubert, tmp_path_factory):
    """A full-precision model and its checkpoint, as fairseq-train writes it."""
    options = DECODER_ONLY if request.param == "decoder only" else {}
    cfg = config(
        "hubert_deltalm",
        hubert_model_path=str(hubert),
        deltalm_model_path=str(TINY),
        **TINY_HEADS,
        **options,
    )
    model = task.build_model(cfg)
    path = tmp_path_factory.mktemp("start") / "st.pt"
    save(path, model, cfg, task)
    return model.eval(), path


def save(path, model, cfg, task) -> None:
    options = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    state = {"cfg": {"model": options}, "model": model.state_dict()}
    torch.save({**state, "task_state": task.state_dict()}, path)


def quantize(task, start, policy):
    cfg = config(
        "quant_deltalm", finetuned_st_model=str(start[1]), quant_policy=policy, max_update=10
    )
    return task.build_model(cfg), cfg


def test_the_start_is_taken_whole(task, start):
    model, cfg = quantize(task, start, "decoder")
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in start[0].state_dict().items())
    assert cfg.deltalm_decoder_only is start[0].encoder.layers[0].normalize_before


@pytest.mark.parametrize("policy", ["decoder", "transformer"])
def test_every_linear_layer_is_quantised_and_called(task, start, batch, policy):
    model, _ = quantize(task, start, policy)
    parts = {
        "decoder": ("decoder.layers.",),
        "transformer": ("decoder.layers.", "encoder.layers.", "encoder.hubert.encoder.layers."),
    }[policy]
    linear = {
        name
        for name, module in start[0].named_modules()
        if type(module) is torch.nn.Linear and name.startswith(parts)
    }
    assert {"decoder.layers.1.fc3", "decoder.layers.1.fc4"} <= linear
    assert set(quantized_layers(model)) == linear
    for training in (True, False):
        with count_calls(model.train(training)) as calls:
            logits, extra = model(**batch)
        assert all(calls.values())
    with count_calls(model) as calls:
        model.decoder(
            batch["prev_output_tokens"], encoder_out=extra["encoder_out"], incremental_state={}
        )
    assert all(count for name, count in calls.items() if name.startswith("decoder."))
    logits.square().sum().backward()
    without = [n for n, p in model.decoder.named_parameters() if p.grad is None]
    assert not without


@torch.no_grad()
def test_step_by_step_equals_teacher_forcing(task, start, batch):
    model = quantize(task, start, "decoder")[0].double().eval()
    expected, extra = model(**batch)
    assert not torch.allclose(expected, start[0](**batch)[0].double(), atol=1e-2)
    state: dict = {}
    for step in range(expected.size(1)):
        prefix = batch["prev_output_tokens"][:, : step + 1]
        logits, _ = model.decoder(prefix, encoder_out=extra["encoder_out"], incremental_state=state)
        real = prefix[:, -1] != 1
        torch.testing.assert_close(logits[real, -1], expected[real, step], rtol=0, atol=1e-4)


def test_a_saved_model_needs_no_other_file(task, start, batch, tmp_path):
    model, cfg = quantize(task, start, "decoder")
    save(tmp_path / "quantised.pt", model, cfg, task)
    state = torch.load(tmp_path / "quantised.pt", weights_only=True)
    options = {
        **state["cfg"]["model"],
        "deltalm_model_path": "/gone",
        "hubert_model_path": "/gone",
        "finetuned_st_model": "/gone",
    }
    again = task.build_model(OmegaConf.create(options), from_checkpoint=True)
    again.load_state_dict(state["model"], strict=True)
    model, again = model.eval(), again.eval()
    assert torch.equal(again(**batch)[0], model(**batch)[0])
