"""Learning from a full-precision teacher: options, the teacher, and the terms of the loss."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from torch import Tensor, nn

from cress_svcd.errors import ConfigError
from cress_svcd.inference.install import install
from cress_svcd.models.hubert_encoder import OUTPUT
from cress_svcd.models.states import (
    Calls,
    find_attentions,
    find_modules,
    unwrapped,
    watch_layers,
    watch_projections,
)
from cress_svcd.models.trained import load_trained
from cress_svcd.quantization import quantized_layers
from cress_svcd.training import intervention
from cress_svcd.training.distillation_losses import (
    direction_loss,
    hidden_state_loss,
    relation_loss,
    token_kl,
)
from cress_svcd.training.intervention import InterventionOptions

logger = logging.getLogger(__name__)

RELATIONS = {"softmax": relation_loss, "direction": direction_loss}
TERMS = ("kl", "hidden", "relation")
TOKENS = ("alike", "entropy")
LOGGED = tuple(f"distill_{term}" for term in TERMS)


@dataclass
class DistillationOptions(InterventionOptions):
    """Options of the terms; without ``teacher_model`` there are none."""

    teacher_model: Optional[str] = field(
        default=None,
        metadata={
            "help": "trained full-precision checkpoint to learn from, of the same vocabulary; it "
            "is never trained, nor stored in checkpoints"
        },
    )
    teacher_fp16: bool = field(
        default=False, metadata={"help": "run the teacher in half precision"}
    )
    distill_kl_weight: float = field(
        default=1.0,
        metadata={
            "help": "weight of the divergence of the student's distribution of each target token "
            "from the teacher's, next to a cross-entropy of weight 1"
        },
    )
    distill_temperature: float = field(
        default=1.0, metadata={"help": "temperature of both distributions"}
    )
    distill_kl_tokens: ChoiceEnum(TOKENS) = field(
        default="alike",
        metadata={
            "help": "how tokens count in --distill-kl-weight: alike, or by the entropies of "
            "teacher and student, where both are in doubt more (DB-LLM's deviation-aware "
            "distillation)"
        },
    )
    distill_kl_warmup: int = field(
        default=0, metadata={"help": "updates in which --distill-kl-weight grows from 0"}
    )
    distill_hidden_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the squared distance between the directions of the student's and "
            "the teacher's layer outputs, averaged over --distill-hidden-layers, by token"
        },
    )
    distill_hidden_layers: str = field(
        default="encoder.layers.*,decoder.layers.*",
        metadata={
            "help": "layers of --distill-hidden-weight, comma separated; * is any, -1 the last "
            "(HuBERT's: encoder.hubert.encoder.layers.*)"
        },
    )
    distill_hidden_warmup: int = field(
        default=0, metadata={"help": "updates in which --distill-hidden-weight grows from 0"}
    )
    distill_relation_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the divergence between the relations among queries, among keys and "
            "among values of --distill-relation-layers (MiniLMv2)"
        },
    )
    distill_relation_layers: str = field(
        default="decoder.layers.-1.self_attn",
        metadata={"help": "self-attentions of --distill-relation-weight, comma separated"},
    )
    distill_relation_form: ChoiceEnum(tuple(RELATIONS)) = field(
        default="softmax",
        metadata={
            "help": "how --distill-relation-weight compares relations: softmax (their "
            "distributions, MiniLMv2) or direction (their directions, BiBERT)"
        },
    )
    distill_relation_warmup: int = field(
        default=0, metadata={"help": "updates in which --distill-relation-weight grows from 0"}
    )


@dataclass
class Watched:
    """What one run of a model left of its layers and projections, by name.

    Attributes:
        taught: what ``Distillation.teach`` has returned for the same inputs, if it was asked to.
    """

    layers: dict[str, Calls]
    projections: dict[str, Calls]
    taught: "tuple[list[Tensor], Watched] | None" = None


class Distillation:
    """The teacher and the terms.  Not a module: neither optimizer nor checkpoint sees the teacher.

    Args:
        options: :class:`DistillationOptions`, ``teacher_model`` among them.
        task: whose vocabulary and, where they are cached, speech features the teacher must share.

    Raises:
        CheckpointError: the teacher's file is damaged, or of another vocabulary.
        ConfigError: an option is out of range, or names what the teacher does not have, or the
            teacher is quantised.
    """

    def __init__(self, options: DistillationOptions, task):
        check_options(options)
        self.options = options
        self.padding = task.target_dictionary.pad()
        self.teacher = load_trained(options.teacher_model, task)
        install(self.teacher)
        count = len(quantized_layers(self.teacher))
        if count:
            raise ConfigError(
                f"--teacher-model {options.teacher_model}: has {count} quantised layers; expected "
                "a full-precision model, such as the one that the first training started from"
            )
        if options.teacher_fp16:
            self.teacher.half()
        for module in self.teacher.modules():
            if hasattr(module, "masks_always"):
                module.masks_always = True  # in evaluation, but without waiting for the GPU
        self.teacher_parts = self._parts(self.teacher)
        watches_hubert = any(".hubert." in name for name in self.teacher_parts[0])
        if watches_hubert and task.cached_layer == OUTPUT:
            raise ConfigError(
                "--distill-hidden-layers names layers of HuBERT, which do not run where "
                "--feature-cache takes their place"
            )
        self.student_parts: tuple | None = None
        self.intervened: dict[str, nn.Module] = {}
        self.student_intervened: dict[str, nn.Module] | None = None
        if options.intervention_warmup:
            self.intervened = self._intervened(self.teacher)

    def _intervened(self, model: nn.Module) -> dict[str, nn.Module]:
        return find_modules(model, self.options.intervention_layers, "--intervention-layers")

    def _parts(self, model: nn.Module) -> tuple[dict, dict]:
        """The layers and the attentions that the terms compare."""
        options = self.options
        layers, attentions = {}, {}
        if options.distill_hidden_weight > 0:
            option = "--distill-hidden-layers"
            layers = find_modules(model, options.distill_hidden_layers, option)
        if options.distill_relation_weight > 0:
            option = "--distill-relation-layers"
            attentions = find_attentions(model, options.distill_relation_layers, option)
        return layers, attentions

    @contextlib.contextmanager
    def watching(self, model: nn.Module, inputs: dict, updates: int) -> Iterator[Watched]:
        """Keep what the terms compare while the block runs the student with ``inputs``; in training
        the teacher intervenes."""
        if self.student_parts is None:
            self.student_parts = self._parts(unwrapped(model))
            for ours, theirs in zip(self.student_parts, self.teacher_parts):
                if ours.keys() != theirs.keys():
                    differing = sorted(ours.keys() ^ theirs.keys())
                    raise ConfigError(
                        f"--teacher-model {self.options.teacher_model}: has other layers than the "
                        f"model ({', '.join(differing[:4])}): name layers that both have in "
                        "--distill-hidden-layers and --distill-relation-layers"
                    )
        with watch(self.student_parts) as watched:
            share = self.share(updates) if model.training else 0.0
            if share == 0:
                yield watched
                return
            device = next(model.parameters()).device
            with watch_layers(self.intervened) as signals:
                watched.taught = self.teach(inputs, device)
            if self.student_intervened is None:
                self.student_intervened = self._intervened(unwrapped(model))
            with intervention.intervening(self.student_intervened, signals, share):
                yield watched

    def share(self, updates: int) -> float:
        """Of the teacher in the layers where it intervenes."""
        return intervention.share_of_teacher(self.options, updates)

    def loss(
        self,
        inputs: dict[str, Tensor | None],
        outputs: list[Tensor],
        watched: Watched,
        target: Tensor,
        updates: int,
    ) -> tuple[Tensor, dict[str, Any]]:
        """The weighted sum of the terms, summed over the target's tokens, and what to log.

        Args:
            inputs: what the student was called with; the teacher is called with the same.
            outputs: the student's logits (batch, time, vocabulary), of its speech and perhaps
                of its transcripts.
            watched: of the same call.
            target: (batch, time).
            updates: made so far, for the warm-ups.
        """
        theirs, their_watched = watched.taught or self.teach(inputs, outputs[0].device)
        padding = target.eq(self.padding)
        ntokens = (~padding).sum()
        options = self.options
        terms = {}
        by_entropy = str(options.distill_kl_tokens) == "entropy"
        if options.distill_kl_weight > 0:
            terms["kl"] = sum(
                token_kl(own, their, padding, options.distill_temperature, by_entropy)
                for own, their in zip(outputs, theirs, strict=True)
            )
        if options.distill_hidden_weight > 0:
            terms["hidden"] = ntokens * hidden_term(watched.layers, their_watched.layers)
        if options.distill_relation_weight > 0:
            terms["relation"] = ntokens * relation_term(
                watched.projections,
                their_watched.projections,
                self.student_parts[1],
                RELATIONS[str(options.distill_relation_form)],
            )
        total = torch.zeros((), device=target.device)
        for name, value in terms.items():
            total = total + self.weight(name, updates) * value
        logged = {f"distill_{name}": value.detach() for name, value in terms.items()}
        return total, logged | {"distill_ntokens": ntokens * len(outputs)}

    def weights(self, updates: int) -> tuple[float, ...]:
        """Of all terms after so many updates, and of the teacher in the student's layers."""
        return (*(self.weight(term, updates) for term in TERMS), self.share(updates))

    def weight(self, term: str, updates: int) -> float:
        """Of a term after so many updates."""
        warmup = getattr(self.options, f"distill_{term}_warmup")
        share = min(1.0, updates / warmup) if warmup else 1.0
        return share * getattr(self.options, f"distill_{term}_weight")

    @torch.no_grad()
    def teach(self, inputs: dict, device: torch.device) -> tuple[list[Tensor], Watched]:
        """The teacher's logits for the same inputs, and what was watched."""
        if next(self.teacher.parameters()).device != device:
            self.teacher.to(device)
        with watch(self.teacher_parts) as watched:
            logits, extra = self.teacher(**inputs)
        text = extra.get("text_output")
        return [logits] if text is None else [logits, text[0]], watched


@contextlib.contextmanager
def watch(parts: tuple[dict, dict]) -> Iterator[Watched]:
    """Watch the layers and the attentions of ``parts``."""
    with watch_layers(parts[0]) as layers, watch_projections(parts[1]) as projections:
        yield Watched(layers, projections)


def check_options(options: DistillationOptions) -> None:
    """Raise ConfigError for what is out of range, or has no teacher."""
    for term in TERMS:
        for what in ("weight", "warmup"):
            value = getattr(options, f"distill_{term}_{what}")
            if value < 0:
                raise ConfigError(f"--distill-{term}-{what} {value}: expected 0 or more")
    if not options.distill_temperature > 0:
        raise ConfigError(
            f"--distill-temperature {options.distill_temperature}: expected more than 0"
        )
    intervention.check_options(options, bool(options.teacher_model))
    if not options.teacher_model:
        for term in TERMS:
            name = f"distill_{term}_weight"
            # The default of one of them is above 0: it stands for "if there is a teacher".
            if getattr(options, name) not in (0, getattr(DistillationOptions, name)):
                raise ConfigError(f"--distill-{term}-weight needs --teacher-model")


def hidden_term(ours: dict[str, Calls], theirs: dict[str, Calls]) -> Tensor:
    """Mean distance of the directions at the positions of a call, summed over the calls of a layer
    (speech, transcripts) and averaged over the layers that ran."""
    return _mean(
        [
            sum(
                hidden_state_loss([state], [their], None if padding is None else padding.t())
                / _positions(state, padding)
                for (state, padding), (their, _) in zip(calls, theirs[name], strict=True)
            )
            for name, calls in ours.items()
            if calls
        ]
    )


def relation_term(
    ours: dict[str, Calls],
    theirs: dict[str, Calls],
    attentions: dict[str, nn.Module],
    loss: Callable[..., Tensor] = relation_loss,
) -> Tensor:
    """The same for the relations of each projection of ``attentions``, (time, batch, channels), by
    a ``loss`` of RELATIONS."""
    return _mean(
        [
            sum(
                loss(
                    [state.transpose(0, 1)],
                    [their.transpose(0, 1)],
                    attentions[name.rpartition(".")[0]].num_heads,
                    padding,
                )
                / _positions(state, padding)
                for (state, padding), (their, _) in zip(calls, theirs[name], strict=True)
            )
            for name, calls in ours.items()
            if calls
        ]
    )


def _mean(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values) if values else torch.zeros(())


def _positions(state: Tensor, padding: Tensor | None) -> Tensor | int:
    """Positions of a state (time, batch, channels) that are not padding."""
    return state.size(0) * state.size(1) if padding is None else (~padding.bool()).sum()
