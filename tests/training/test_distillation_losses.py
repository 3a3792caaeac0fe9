import math

import numpy as np
import pytest
import torch

from cress_svcd.training.distillation_losses import (
    direction_loss,
    hidden_state_loss,
    relation_loss,
    token_kl,
)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture
def padding():
    return torch.tensor([[False] * 4, [False, False, True, True]])


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True),
        torch.randn(*shape, dtype=torch.float64, requires_grad=True),
    )


class TestTokenKL:
    @pytest.mark.parametrize("temperature", [1.0, 5.0])
    def test_is_the_formula(self, padding, temperature):
        student, teacher = pair(2, 4, 11)
        p = softmax(teacher.detach().numpy() / temperature)
        q = softmax(student.detach().numpy() / temperature)
        expected = (p * (np.log(p) - np.log(q))).sum(-1)[~padding.numpy()].sum() * temperature**2
        assert token_kl(student, teacher, padding, temperature).item() == pytest.approx(expected)

    def test_by_entropy_it_is_the_formula(self, padding):
        student, teacher = pair(2, 4, 11)
        p, q = softmax(teacher.detach().numpy() / 2), softmax(student.detach().numpy() / 2)
        divergence = (p * (np.log(p) - np.log(q))).sum(-1)[~padding.numpy()]
        entropies = (p * np.log(p)).sum(-1) * (q * np.log(q)).sum(-1)
        doubt = entropies[~padding.numpy()]
        expected = (doubt / doubt.mean() * divergence).sum() * 4
        found = token_kl(student, teacher, padding, 2.0, by_entropy=True)
        assert found.item() == pytest.approx(expected)
        # The weights are no way to a lower loss.
        found.backward()
        weights = torch.zeros(2, 4, dtype=torch.float64)
        weights[~padding] = torch.tensor(doubt / doubt.mean())
        plain = student.detach().clone().requires_grad_()
        token_kl(plain, teacher, padding, 2.0).backward()
        torch.testing.assert_close(student.grad, plain.grad * weights.unsqueeze(-1))
        assert teacher.grad is None

    def test_by_entropy_tokens_without_doubt_count_alike(self):
        student, teacher = torch.tensor([[0.0, 2e4]]), torch.tensor([[2e4, 0.0]])
        alike = token_kl(student, teacher)
        assert 0 < alike < math.inf and token_kl(student, teacher, by_entropy=True) == alike

    def test_is_zero_for_the_teacher_itself(self):
        logits = torch.randn(3, 7)
        assert token_kl(logits, logits.clone()).item() == pytest.approx(0, abs=1e-6)

    def test_gradients_reach_the_student_only(self, padding):
        student, teacher = pair(2, 4, 11)
        token_kl(student, teacher, padding).backward()
        assert teacher.grad is None
        assert (student.grad[~padding] != 0).all()
        assert (student.grad[padding] == 0).all()

    def test_padding_counts_nothing_whatever_it_holds(self, padding):
        student, teacher = pair(2, 4, 11)
        expected = token_kl(student, teacher, padding)
        student, teacher = student.detach().clone(), teacher.detach().clone()
        student[padding], teacher[padding] = math.nan, math.inf
        student.requires_grad_()
        loss = token_kl(student, teacher, padding)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert student.grad.isfinite().all()

    def test_half_precision_is_computed_in_float32(self):
        student, teacher = (300 * torch.randn(2, 5, 1000)).half(), torch.randn(2, 5, 1000).half()
        loss = token_kl(student.requires_grad_(), teacher)
        assert loss.dtype is torch.float32
        assert loss.item() == pytest.approx(
            token_kl(student.double(), teacher.double()).item(), rel=1e-5
        )
        loss.backward()
        assert student.grad.isfinite().all()

    def test_a_teacher_of_another_vocabulary_is_refused(self):
        with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 6\)"):
            token_kl(torch.randn(2, 5), torch.randn(2, 6))

    def test_nothing_but_padding_is_zero(self):
        assert token_kl(torch.randn(2, 3), torch.randn(2, 3), torch.tensor([True, True])) == 0


class TestHiddenStates:
    def test_is_the_formula(self, padding):
        students, teachers = zip(*[pair(2, 4, 6) for _ in range(3)])
        expected = 0.0
        for s, t in zip(students, teachers):
            s, t = s.detach().numpy(), t.detach().numpy()
            s = s / np.linalg.norm(s, axis=-1, keepdims=True)
            t = t / np.linalg.norm(t, axis=-1, keepdims=True)
            expected += ((s - t) ** 2).sum(-1)[~padding.numpy()].sum() / 3
        assert hidden_state_loss(students, teachers, padding).item() == pytest.approx(expected)

    def test_scales_do_not_matter(self):
        student, teacher = pair(4, 6)
        torch.testing.assert_close(
            hidden_state_loss([student], [teacher]), hidden_state_loss([3 * student], [teacher / 7])
        )

    def test_gradients_reach_the_student_only(self):
        student, teacher = pair(2, 4, 6)
        hidden_state_loss([student], [teacher]).backward()
        assert teacher.grad is None
        assert (student.grad != 0).any()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    def test_zero_and_huge_states_are_harmless(self, dtype):
        student = torch.tensor([[0.0, 0.0], [6e4, -6e4]], dtype=dtype, requires_grad=True)
        teacher = torch.tensor([[1.0, 0.0], [6e4, -6e4]], dtype=dtype)
        loss = hidden_state_loss([student], [teacher])
        assert loss.item() == pytest.approx(1.0)
        loss.backward()
        assert student.grad.isfinite().all()

    def test_layers_must_pair_up(self):
        state = torch.randn(2, 3)
        for students, teachers in (([], []), ([state], [state, state])):
            with pytest.raises(ValueError, match="layers"):
                hidden_state_loss(students, teachers)
        with pytest.raises(ValueError, match="same shape"):
            hidden_state_loss([state], [torch.randn(2, 4)])


class TestRelations:
    @pytest.mark.parametrize("heads", [1, 2])
    def test_is_the_formula(self, heads, padding):
        students, teachers = zip(*[pair(2, 4, 6) for _ in range(3)])
        mask = padding.numpy()
        expected = 0.0
        for student, teacher in zip(students, teachers):
            for b in range(2):
                keep = ~mask[b]
                for part in np.split(np.arange(6), heads):
                    relations = []
                    for side in (teacher, student):
                        a = side.detach().numpy()[b][keep][:, part]
                        relations.append(softmax(a @ a.T / math.sqrt(len(part))))
                    p, q = relations
                    expected += (p * (np.log(p) - np.log(q))).sum() / (heads * 3)
        found = relation_loss(students, teachers, heads, padding)
        assert found.item() == pytest.approx(expected)

    def test_gradients_reach_the_student_only(self, padding):
        student, teacher = pair(2, 4, 6)
        relation_loss([student], [teacher], 2, padding).backward()
        assert teacher.grad is None
        assert (student.grad[~padding] != 0).any()
        assert (student.grad[padding] == 0).all()

    def test_padding_counts_nothing_whatever_it_holds(self, padding):
        student, teacher = pair(2, 4, 6)
        expected = relation_loss([student], [teacher], 2, padding)
        spoiled = student.detach().clone()
        spoiled[padding] = math.nan
        spoiled.requires_grad_()
        loss = relation_loss([spoiled], [teacher], 2, padding)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert spoiled.grad.isfinite().all()

    def test_a_sentence_of_nothing_but_padding_is_harmless(self):
        student, teacher = pair(1, 3, 4)
        loss = relation_loss([student], [teacher], 2, torch.ones(1, 3, dtype=torch.bool))
        loss.backward()
        assert loss == 0
        assert (student.grad == 0).all()

    def test_widths_may_differ_and_halves_do_not_overflow(self):
        student = (100 * torch.randn(2, 4, 8)).half().requires_grad_()
        loss = relation_loss([student], [torch.randn(2, 4, 12).half()], 4)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()

    def test_shapes_must_fit(self):
        with pytest.raises(ValueError, match="multiple of 4"):
            relation_loss([torch.randn(1, 2, 6)], [torch.randn(1, 2, 6)], 4)
        with pytest.raises(ValueError, match="same shape"):
            relation_loss([torch.randn(1, 2, 6)], [torch.randn(1, 3, 6)], 2)
        with pytest.raises(ValueError, match="projections"):
            relation_loss([torch.randn(1, 2, 6)], [], 2)


class TestDirections:
    @pytest.mark.parametrize("heads", [1, 2])
    def test_is_the_formula(self, heads, padding):
        students, teachers = zip(*[pair(2, 4, 6) for _ in range(3)])
        expected = 0.0
        for student, teacher in zip(students, teachers):
            for b in range(2):
                keep = ~padding.numpy()[b]
                for part in np.split(np.arange(6), heads):
                    relations = []
                    for side in (teacher, student):
                        a = side.detach().numpy()[b][keep][:, part]
                        relations.append(a @ a.T / np.linalg.norm(a @ a.T))
                    distance = ((relations[0] - relations[1]) ** 2).sum()
                    expected += distance * keep.sum() / (heads * 3)
        found = direction_loss(students, teachers, heads, padding)
        assert found.item() == pytest.approx(expected)

    def test_scales_do_not_matter_and_gradients_reach_the_student_only(self, padding):
        student, teacher = pair(2, 4, 6)
        loss = direction_loss([student], [teacher], 2, padding)
        torch.testing.assert_close(direction_loss([3 * student], [teacher / 7], 2, padding), loss)
        loss.backward()
        assert teacher.grad is None and (student.grad[~padding] != 0).any()
        assert (student.grad[padding] == 0).all()

    def test_zeros_and_padding_alone_are_harmless(self):
        student = torch.zeros(1, 3, 4, requires_grad=True)
        loss = direction_loss([student], [torch.randn(1, 3, 4)], 2)
        loss.backward()
        assert student.grad.isfinite().all()
        assert direction_loss([student], [student], 2, torch.ones(1, 3, dtype=torch.bool)) == 0

    def test_shapes_must_fit(self):
        with pytest.raises(ValueError, match="multiple of 4"):
            direction_loss([torch.randn(1, 2, 6)], [torch.randn(1, 2, 6)], 4)
        with pytest.raises(ValueError, match="projections"):
            direction_loss([torch.randn(1, 2, 6)], [], 2)
