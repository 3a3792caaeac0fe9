"""Terms by which a quantised student learns from its full-precision teacher.

Pure functions of tensors, computed in float32 at least; the teacher's side is detached, so
gradients reach the student only.  Each returns the sum over positions that are not padding, to be
divided by their number as a criterion does with its other sums.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cress_svcd.quantization.fake_quant import accumulation_dtype


def token_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    padding: Tensor | None = None,
    temperature: float = 1.0,
    by_entropy: bool = False,
) -> Tensor:
    """T^2 * KL(teacher || student) of the distributions at temperature T, summed over tokens.

    With ``by_entropy`` a token counts by the product of the teacher's and the student's entropy,
    over the mean of these products: where both are in doubt, more.  After the deviation-aware
    distillation of DB-LLM (Chen et al. 2024, arXiv:2402.11960), which takes the pair of entropies
    for a token's difficulty; how the paper joins them was not at hand.  The mean is of one call:
    parts of a batch have each their own.

    Args:
        student_logits, teacher_logits: ... x vocabulary, of the same shape.
        padding: ..., True where the target is padding: those positions count nothing, whatever
            their logits are (infinite and NaN included).
        temperature: divides both logits; T^2 keeps the gradient's size (Hinton, Vinyals and Dean
            2015).
        by_entropy: whether tokens count by their entropies, which have no gradient.

    Raises:
        ValueError: the shapes differ, as with a teacher of another vocabulary.
    """
    _require_same_shape("logits", student_logits, teacher_logits)
    # Blank positions have the same distribution on both sides, hence no divergence.
    student, teacher = _blank(student_logits, padding), _blank(teacher_logits.detach(), padding)
    student_log = F.log_softmax(_exact(student) / temperature, dim=-1)
    teacher_log = F.log_softmax(_exact(teacher) / temperature, dim=-1)
    if not by_entropy:
        return F.kl_div(student_log, teacher_log, reduction="sum", log_target=True) * temperature**2
    divergence = F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(-1)
    doubt = _entropy(student_log.detach()) * _entropy(teacher_log)
    counted = torch.ones_like(doubt) if padding is None else (~padding).to(doubt.dtype)
    doubt = doubt * counted
    # Of a batch in which nothing is in doubt, all count alike.
    mean = doubt.sum() / counted.sum().clamp_min(1)
    weights = torch.where(mean > 0, doubt / mean, counted)
    return (weights * divergence).sum() * temperature**2


def _entropy(log_probabilities: Tensor) -> Tensor:
    """Nats of each distribution; a probability of 0 adds nothing."""
    return torch.special.entr(log_probabilities.exp()).sum(-1)


def hidden_state_loss(
    student_states: Sequence[Tensor],
    teacher_states: Sequence[Tensor],
    padding: Tensor | None = None,
) -> Tensor:
    """Squared distance of the states' directions, summed over positions, averaged over layers.

    ||s/|s| - t/|t|||^2 for each position of each chosen layer: OneBit's hidden-state term (Xu et
    al. 2024, eq. 10), indifferent to the states' scales.  A zero state has no direction and stays
    zero.

    Args:
        student_states, teacher_states: one tensor of ... x channels a layer, in the same order.
        padding: ..., True at positions to leave out; in the states' own order of dimensions.

    Raises:
        ValueError: the numbers of layers or their shapes differ.
    """
    if not student_states or len(student_states) != len(teacher_states):
        raise ValueError(
            f"hidden states: found {len(student_states)} layers of the student and "
            f"{len(teacher_states)} of the teacher, expected the same number from 1"
        )
    total = torch.zeros((), device=student_states[0].device)
    for student, teacher in zip(student_states, teacher_states):
        _require_same_shape("hidden states", student, teacher)
        direction = _direction(_blank(student, padding))
        target = _direction(_blank(teacher.detach(), padding))
        total = total + (direction - target).square().sum()
    return total / len(student_states)


def _direction(states: Tensor) -> Tensor:
    """Each row over its length.  Below 1e-3 a length counts as 1e-3: the gradient, which is of the
    order of one over it, would leave float16's range."""
    return F.normalize(_exact(states), dim=-1, eps=1e-3)


def relation_loss(
    student_projections: Sequence[Tensor],
    teacher_projections: Sequence[Tensor],
    heads: int,
    padding: Tensor | None = None,
) -> Tensor:
    """KL between the teacher's and the student's self-relations of late-layer projections.

    For each of the projections (queries, keys and values of one layer) and each of ``heads``
    slices A (time, d) of its channels, the relation is R = softmax(A A^T / sqrt(d)); the term is
    KL(R_teacher || R_student), summed over positions, averaged over heads and projections.

    Source: BitNet Distillation (Wu et al. 2025, eq. 11 and 12), after MiniLMv2 (Wang et al. 2021).

    Args:
        student_projections, teacher_projections: a tensor (batch, time, channels) for each; the
            channels of student and teacher may differ if both are multiples of ``heads``.
        padding: (batch, time), True at positions that are neither compared nor attended to.

    Raises:
        ValueError: shapes do not fit each other or ``heads``.
    """
    if not student_projections or len(student_projections) != len(teacher_projections):
        raise ValueError("relations: expected as many projections of the teacher as of the student")
    total = torch.zeros((), device=student_projections[0].device)
    for student, teacher in zip(student_projections, teacher_projections):
        _require_same_shape("relations", student[..., 0], teacher[..., 0])
        student_log = _log_relation(student, heads, padding)
        teacher_log = _log_relation(teacher.detach(), heads, padding)
        divergence = teacher_log.exp() * (teacher_log - student_log)
        if padding is not None:
            # Padded keys have probability 0 on both sides, where 0 * (-inf + inf) would be NaN.
            divergence = divergence.masked_fill(padding[:, None, None, :], 0)
            divergence = divergence.masked_fill(padding[:, None, :, None], 0)
        total = total + divergence.sum()
    return total / (heads * len(student_projections))


def direction_loss(
    student_projections: Sequence[Tensor],
    teacher_projections: Sequence[Tensor],
    heads: int,
    padding: Tensor | None = None,
) -> Tensor:
    """Squared distance of the directions of the teacher's and the student's self-relations.

    The relation of a slice A (time, d) of a projection is P = A A^T / ||A A^T||, in the Frobenius
    norm; the term is ||P_teacher - P_student||^2 of each sentence, times its positions, averaged
    over heads and projections.  Unlike ``relation_loss`` it sees activations whose sizes are lost.

    Source: direction-matching distillation of BiBERT (Qin et al. 2022, section 3.4).

    Args, Raises: see ``relation_loss``.
    """
    if not student_projections or len(student_projections) != len(teacher_projections):
        raise ValueError("relations: expected as many projections of the teacher as of the student")
    total = torch.zeros((), device=student_projections[0].device)
    for student, teacher in zip(student_projections, teacher_projections):
        _require_same_shape("relations", student[..., 0], teacher[..., 0])
        ours = _direction(_relation(student, heads, padding).flatten(2))
        theirs = _direction(_relation(teacher.detach(), heads, padding).flatten(2))
        positions = ours.new_full((len(ours), 1), student.shape[1])
        if padding is not None:
            positions = (~padding).sum(1, keepdim=True)
        total = total + ((ours - theirs).square().sum(2) * positions).sum()
    return total / (heads * len(student_projections))


def _log_relation(projection: Tensor, heads: int, padding: Tensor | None) -> Tensor:
    """log softmax(A A^T / sqrt(d)), (batch, heads, time, time).

    Args:
        projection: (batch, time, channels).
    """
    scores = _relation(projection, heads, padding) / math.sqrt(projection.shape[2] // heads)
    if padding is not None:
        # A finite number: a row of nothing but padding must not become NaN.
        scores = scores.masked_fill(padding[:, None, None, :], torch.finfo(scores.dtype).min)
    return F.log_softmax(scores, dim=-1)


def _relation(projection: Tensor, heads: int, padding: Tensor | None) -> Tensor:
    """A A^T of each head, (batch, heads, time, time), 0 at padding.

    Args:
        projection: (batch, time, channels).
    """
    batch, length, channels = projection.shape
    if channels % heads:
        raise ValueError(f"relations: found {channels} channels, expected a multiple of {heads}")
    shape = batch, length, heads, channels // heads
    split = _exact(_blank(projection, padding)).reshape(shape).transpose(1, 2)
    return split @ split.transpose(2, 3)


def _exact(x: Tensor) -> Tensor:
    return x.to(accumulation_dtype(x.dtype))


def _blank(x: Tensor, padding: Tensor | None) -> Tensor:
    """``x`` (... x C) with zeros at padded positions, gradients included.

    Unlike indexing, this does not make the host wait for a GPU.
    """
    return x if padding is None else x.masked_fill(padding.unsqueeze(-1), 0)


def _require_same_shape(what: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"{what}: found {tuple(student.shape)} of the student and {tuple(teacher.shape)} of "
            "the teacher, expected the same shape"
        )
