"""What turns a model of ours into a quantised one.

Options, initial checkpoint, conversion, schedule, resuming.

To quantise another base model:

    @dataclass
    class QuantOtherConfig(QuantizationOptions, left_open(OtherConfig)):
        "Options of OtherConfig, and those of the quantisation."

    @register_model("quant_other", dataclass=QuantOtherConfig)
    class QuantOther(Quantized, Other):
        base_config, start_archs = OtherConfig, ("other",)
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum
from omegaconf import II
from torch import Tensor, nn

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.attention import call_quantized_projections
from cress_svcd.models.binary_attention import (
    NONE,
    BinaryAttentionOptions,
    binarize_attention,
    form_in,
    require_same_form,
)
from cress_svcd.models.checkpoints import (
    model_options,
    options_in,
    read_checkpoint,
    require_dictionary,
    shorten,
    transfer,
)
from cress_svcd.models.hubert_checkpoint import read_hubert
from cress_svcd.models.low_bit_options import (
    LowBitOptions,
    complete_options,
    convert_trained,
    require_same_bits,
    trained_bits,
)
from cress_svcd.models.quantized_start import layers_in, take_weights
from cress_svcd.quantization import (
    Policy,
    Schedule,
    apply_policy,
    parameters_by_kind,
    quantization_map,
    rebuild,
    require_same_map,
)
from cress_svcd.quantization.low_bit_grid import LowBits
from cress_svcd.quantization.presets import find_policy
from cress_svcd.quantization.report import summary
from cress_svcd.quantization.schedule import SCHEDULES, SHAPES, Stage, set_stage

logger = logging.getLogger(__name__)

# Options that each training chooses again; all others make the model what it is.
OF_THE_TRAINING = {
    "_name",
    "hubert_model_path",
    "hubert_description",
    "freeze_hubert",
    "freeze_hubert_convolutions",
    "hubert_dropout",
    "hubert_layerdrop",
    "hubert_mask_prob",
    "hubert_mask_length",
    "hubert_mask_channel_prob",
    "hubert_mask_channel_length",
    "load_pretrained_mt_encoder_decoder_from",
    "freeze_decoder_updates",
    "ctc_head",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "checkpoint_activations",
    "max_source_positions",
    "max_target_positions",
}
# What an initial checkpoint need not hold, and what it may hold in vain.
OPTIONAL_TENSORS = ("encoder.hubert.mask_emb",)
UNUSED_TENSORS = (*OPTIONAL_TENSORS, "encoder.ctc_head.")


@dataclass
class QuantizationOptions(LowBitOptions, BinaryAttentionOptions):
    """Options of a quantised model, next to those of its base."""

    finetuned_st_model: Optional[str] = field(
        default=None,
        metadata={
            "help": "trained checkpoint to start from: in full precision, or of this arch with "
            "some of the policy's layers quantised, which then go on as they are. Its dimensions "
            "and its speech encoder are read from it and need not be given again"
        },
    )
    quant_policy: str = field(
        default="cross_attention",
        metadata={
            "help": "which layers are quantised and how, and at how many bits embeddings and "
            "convolutions are trained: a policy file, or the name of one in configs/quant"
        },
    )
    quant_method: Optional[str] = field(
        default=None,
        metadata={
            "help": "quantise the policy's layers by this method instead of its own (svcd, "
            "bitnet, bitnet158, onebit, ...), with that method's defaults"
        },
    )
    quant_bits: Optional[float] = field(
        default=None, metadata={"help": "bits of a weight instead of the policy's: 1, 1.58, ..."}
    )
    quant_activation_bits: Optional[str] = field(
        default=None,
        metadata={"help": "bits of the layers' inputs instead of the policy's: 8, 16 or off"},
    )
    quant_options: Optional[str] = field(
        default=None,
        metadata={
            "help": "options of the method instead of the policy's, as JSON: "
            '\'{"init": "row"}\', \'{"variant": "paper"}\''
        },
    )
    quant_schedule: ChoiceEnum(SCHEDULES) = field(
        default="none",
        metadata={
            "help": "how training goes from full precision to few bits: none is quantised from "
            "the first update; fade mixes full precision and quantised outputs; ternary fades "
            "into ternary weights and then makes those binary. Layers that --finetuned-st-model "
            "had quantised stay so. Validation and generation are fully quantised throughout"
        },
    )
    quant_warmup: float = field(
        default=0.3,
        metadata={
            "help": "updates that --quant-schedule takes, or, up to 1, their share of --max-update"
        },
    )
    quant_schedule_shape: ChoiceEnum(SHAPES) = field(
        default="linear",
        metadata={"help": "course of --quant-schedule; cosine starts and ends soft"},
    )
    quantization_map: str = field(
        default="",
        metadata={"help": "filled in by training and stored in the checkpoint; not to be set"},
    )
    quantization_begun: str = field(
        default="",
        metadata={
            "help": "names of the layers that the initial checkpoint had quantised; filled in by "
            "training and stored in the checkpoint; not to be set"
        },
    )
    max_update: int = II("optimization.max_update")


def left_open(config: type) -> type:
    """A twin of the dataclass ``config`` in which what makes the model has no default.

    None then means "not given", so that it can be read from a checkpoint.  A flag cannot be given
    as false: it keeps its default, and false means "not given".
    """
    opened = [
        (item.name, Optional[item.type], field(default=None, metadata=item.metadata))
        for item in _of_the_model(config)
        if item.type is not bool
    ]
    return dataclasses.make_dataclass(f"Open{config.__name__}", opened, bases=(config,))


def _of_the_model(config: type) -> list[dataclasses.Field]:
    return [item for item in dataclasses.fields(config) if item.name not in OF_THE_TRAINING]


class Quantized:
    """To be mixed in before a model class: the same model, with the layers of a policy quantised.

    A training takes dimensions and weights from its initial checkpoint, then converts the policy's
    layers.  A saved checkpoint holds the map of its quantised layers and needs neither initial
    checkpoint nor policy file any more.

    Attributes:
        base_config: dataclass of the base model's options, with its defaults.
        start_archs: archs whose checkpoints this model can start from.
        schedule, schedule_updates: in training, the way to few bits and the updates it counts;
            without a schedule the model is fully quantised.
        low_bits: in training, of what no pattern of the policy names.
        attention_form: in training, of attention weights in 1 bit, or "none".
        quantization_stage: the schedule's state at the present update of the training.
        begun_quantized: in training, names of the layers that the initial checkpoint had quantised,
            which no schedule leads there any more.
    """

    base_config: type
    start_archs: tuple[str, ...]
    schedule: Schedule | None = None
    schedule_updates: int = 1
    low_bits: LowBits = LowBits()
    attention_form: str = NONE
    quantization_stage: Stage | None = None
    begun_quantized: frozenset[str] = frozenset()

    @classmethod
    def complete_config(cls, cfg) -> None:
        """Write into ``cfg`` what makes the model, from the initial checkpoint, the policy or the
        defaults.

        Raises:
            CheckpointError: the initial checkpoint is damaged, or of another arch.
            ConfigError: options contradict it or each other.
        """
        if cfg.quantization_map or cfg.quantization_begun:
            raise ConfigError(
                "--quantization-map and --quantization-begun are filled in by training: leave them "
                "out"
            )
        policy = chosen_policy(cfg)
        schedule_of(cfg)
        complete_options(cfg, policy)
        if cfg.finetuned_st_model:
            take_structure(cls, cfg)
        else:
            logger.warning(
                "no --finetuned-st-model: quantised layers are trained from scratch, from the "
                "weights of --hubert-model-path and --load-pretrained-mt-encoder-decoder-from if "
                "they are given; expect far less than from a trained speech translation model"
            )
            for item in _of_the_model(cls.base_config):
                if cfg[item.name] is None:
                    cfg[item.name] = item.default
        super().complete_config(cfg)

    @classmethod
    def build_model(cls, cfg, task):
        """In full precision for a training, before its weights are loaded; from a checkpoint with
        the quantised layers that its map names."""
        model = super().build_model(cfg, task)
        if cfg.quantization_map:
            rebuild(model, json.loads(cfg.quantization_map))
            convert_trained(model, cfg, fit=False)
            call_quantized_projections(model)
            binarize_attention(model, cfg)
        return model

    def load_pretrained(self, cfg, dictionary_digest: str) -> None:
        """Load the initial checkpoint (or the base model's), then convert the policy's layers.

        Raises:
            CheckpointError: a file is damaged or does not fit.
            ConfigError: the policy does not fit.
        """
        start, weights, layers = cfg.finetuned_st_model, {}, {}
        if start:
            weights, layers = load_start(self, start, dictionary_digest)
        else:
            super().load_pretrained(cfg, dictionary_digest)
        for layer in apply_policy(self, chosen_policy(cfg)):
            logger.info(
                "quantised: %s (%s, %s bits, activations %s)",
                layer.name,
                layer.method,
                layer.weight_bits,
                layer.activation_bits or "off",
            )
        if layers:
            take_weights(self, weights, layers, start)
            self.begun_quantized = frozenset(layers)
        cfg.quantization_begun = ",".join(sorted(layers))
        convert_trained(self, cfg, fit=True)
        self.low_bits = trained_bits(cfg)
        call_quantized_projections(self)
        binarize_attention(self, cfg)
        self.attention_form = form_in(cfg)
        cfg.quantization_map = json.dumps(quantization_map(self))
        for kind, parameters in parameters_by_kind(self).items():
            for parameter in parameters:
                parameter.param_group = kind  # for quant_adam; fairseq hands it on to fp32 copies
        self.schedule, self.schedule_updates = schedule_of(cfg)
        totals = summary(self)
        logger.info(
            "quantised: %d layers with %d of %d parameters; the model in %.1f of %.1f MB",
            totals["quantized_layers"],
            totals["quantized_weights"],
            totals["parameters"],
            totals["bits"] / 8e6,
            totals["full_bits"] / 8e6,
        )

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq before each update's forward pass, with the updates made so far."""
        super().set_num_updates(num_updates)
        if self.schedule is not None:
            self.quantization_stage = self.schedule.stage(num_updates, self.schedule_updates)
            self._enter_stage()

    def train(self, mode: bool = True):
        """As torch's.  In evaluation the model is fully quantised, wherever the schedule stands:
        what is measured there is what will translate."""
        changed = mode != self.training
        super().train(mode)
        if changed:
            self._enter_stage()
        return self

    def _enter_stage(self) -> None:
        if self.quantization_stage is not None:
            stage = self.quantization_stage if self.training else Stage()
            set_stage(self, stage, but=self.begun_quantized)

    def check_resumable(self, state: Mapping[str, Any], path: str) -> None:
        """Raise ConfigError unless ``state``, the checkpoint at ``path``, is of the same policy."""
        options = options_in(state, path)
        saved = options.get("quantization_map")
        if not saved:
            raise ConfigError(
                f"{path}: is not quantised and cannot be resumed as a quantised model; to start "
                "from it give --finetuned-st-model, and another --save-dir"
            )
        try:
            require_same_map(json.loads(saved), quantization_map(self))
            require_same_bits(options, self.low_bits)
            require_same_form(options, self.attention_form)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        if (options.get("quantization_begun") or "") != ",".join(sorted(self.begun_quantized)):
            raise ConfigError(
                f"{path}: its training started from a checkpoint with other layers quantised than "
                "--finetuned-st-model has: resume with the same, or start again in another "
                "--save-dir"
            )


def chosen_policy(cfg) -> Policy:
    """The policy that the options name, with what they change in it.

    Raises:
        ConfigError: there is none, or it or a change is wrong.
    """
    policy = find_policy(cfg.quant_policy)
    changes: dict[str, Any] = {}
    if cfg.quant_method is not None:
        changes["method"] = cfg.quant_method
    if cfg.quant_bits is not None:
        changes["bits"] = cfg.quant_bits
    if cfg.quant_activation_bits is not None:
        changes["activation_bits"] = _activation_bits(cfg.quant_activation_bits)
    if cfg.quant_options is not None:
        changes["options"] = _options(cfg.quant_options)
    try:
        return policy.replaced(**changes) if changes else policy
    except ConfigError as error:
        raise ConfigError(f"policy {cfg.quant_policy} with {changes}: {error}") from None


def _activation_bits(text: str) -> int | None:
    if text == "off":
        return None
    if not text.isdigit():
        raise ConfigError(f"--quant-activation-bits {text}: expected 8, 16 or off")
    return int(text)


def _options(text: str) -> dict:
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--quant-options {text!r}: is not JSON ({error})") from None
    if not isinstance(options, dict):
        raise ConfigError(f'--quant-options {text!r}: expected a JSON object, e.g. {{"init": …}}')
    return options


def schedule_of(cfg) -> tuple[Schedule | None, int]:
    """The schedule that the options ask for, and the updates that it counts its share of.

    Raises:
        ConfigError: its length is out of range, or a share of an unknown number of updates.
    """
    kind, shape = str(cfg.quant_schedule), str(cfg.quant_schedule_shape)
    if kind == "none":
        return None, 1
    if cfg.quant_warmup > 1:
        return Schedule(kind, 1.0, shape), int(cfg.quant_warmup)
    if not cfg.quant_warmup > 0:
        raise ConfigError(
            f"--quant-warmup {cfg.quant_warmup}: expected a share of --max-update above 0 and up "
            "to 1, or a number of updates"
        )
    if cfg.max_update <= 0:
        raise ConfigError(
            f"--quant-schedule {kind} with --quant-warmup {cfg.quant_warmup} takes that share of "
            "all updates: give --max-update, or --quant-warmup as a number of updates"
        )
    return Schedule(kind, cfg.quant_warmup, shape), cfg.max_update


def take_structure(model: type[Quantized], cfg) -> None:
    """Write the dimensions of the initial checkpoint and its speech encoder into ``cfg``.

    Raises:
        CheckpointError: it is of another arch.
        ConfigError: an option was given that contradicts it.
    """
    path = cfg.finetuned_st_model
    if cfg.load_pretrained_mt_encoder_decoder_from:
        raise ConfigError(
            "--finetuned-st-model and --load-pretrained-mt-encoder-decoder-from both give the "
            "text encoder and the decoder their weights: leave one of them out"
        )
    saved = model_options(path)
    own = (cfg._name,) if saved.get("quantization_map") else ()
    _check_arch(path, saved.get("_name"), (*model.start_archs, *own))
    contradictions = []
    for item in _of_the_model(model.base_config):
        theirs, ours = saved.get(item.name, item.default), cfg[item.name]
        given = bool(ours) if item.type is bool else ours is not None
        if given and str(ours) != str(theirs):
            option = "--" + item.name.replace("_", "-")
            contradictions.append(f"{option} {ours}, there {theirs}")
        cfg[item.name] = theirs
    if contradictions:
        raise ConfigError(
            f"{path}: these options contradict it: {'; '.join(contradictions)}. The dimensions "
            "come from the checkpoint: leave them out"
        )
    if cfg.ctc_head and not saved.get("ctc_head"):
        raise ConfigError(f"{path}: --ctc-head is given, but the checkpoint has none")
    cfg.hubert_description = saved.get("hubert_description") or ""
    if cfg.hubert_model_path:
        described = read_hubert(cfg.hubert_model_path)[0].to_json()
        if described != cfg.hubert_description:
            raise ConfigError(
                f"--hubert-model-path {cfg.hubert_model_path}: describes another speech encoder "
                f"than {path} was trained with; leave it out, the encoder comes from there"
            )
        logger.info("the speech encoder comes from %s, not from --hubert-model-path", path)


def _check_arch(path: str, found: str | None, expected: tuple[str, ...]) -> None:
    if found in expected:
        return
    what = f"is of arch {found}" if found else "does not name its arch"
    raise CheckpointError(
        f"{path}: {what}; --finetuned-st-model expects a checkpoint of "
        f"{' or '.join(expected)}. Give such a one, or the --arch that belongs to it"
    )


def load_start(
    model: nn.Module, path: str, dictionary_digest: str
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Copy the weights of the checkpoint at ``path`` into ``model``, which is in full precision.

    Returns:
        What ``take_weights`` needs where layers are quantised in the checkpoint: its tensors, and
        how these layers are made.  Both empty for one of full precision, whose memory is free then.
    Raises:
        CheckpointError: damaged, trained with another dictionary, or not of this model.
        ConfigError: see ``layers_in``.
    """
    state = read_checkpoint(path)
    require_dictionary(state, path, dictionary_digest)
    layers = layers_in(options_in(state, path), path)
    weights: dict[str, Tensor] = state["model"]
    report = transfer(model, weights, path)
    report.missing = [name for name in report.missing if name not in OPTIONAL_TENSORS]
    expected = (*UNUSED_TENSORS, *(f"{name}." for name in layers))
    report.unused = [name for name in report.unused if not name.startswith(expected)]
    report.log(f"speech translation model from {path}")
    if report.missing or report.unused:
        raise CheckpointError(
            f"{path}: its tensors are not those that its options describe; missing: "
            f"{shorten(report.missing) or 'none'}; unknown: {shorten(report.unused) or 'none'}"
        )
    return (weights, layers) if layers else ({}, {})
