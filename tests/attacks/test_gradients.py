"""Losses in closed form; the gradient over several evaluations: what each mode combines, chunks, replayed draws."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks import PGD
from lit_pursamere.attacks.gradients import EOT_MODES, LOSSES, adversarial_loss, check_labels, loss_gradient
from lit_pursamere.threat import ThreatModel


class Noisy(nn.Module):
    """A curved classifier of x plus draws from a table; consecutive evaluations see consecutive draws."""

    def __init__(self, inner: nn.Module, draws: Tensor) -> None:
        super().__init__()
        self.inner, self.draws, self.asked = inner, draws, []

    def forward(self, x: Tensor) -> Tensor:
        copies = len(x) // self.draws.shape[1]
        first = sum(self.asked) % len(self.draws)
        self.asked.append(copies)
        noise = self.draws[first : first + copies].flatten(0, 1)
        return self.inner((x + noise).square())


class Random(nn.Module):
    """A curved classifier of x plus fresh noise from torch's global generator."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x + torch.randn_like(x)).square())


@pytest.fixture
def labels(linear_classifier, images) -> Tensor:
    return linear_classifier(images).argmax(1)


@pytest.fixture
def draws(images) -> Tensor:
    return torch.randn((5, *images.shape), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def each_gradient(inner: nn.Module, draws: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the cross-entropy of every draw, (draws, B, ...)."""
    x = x.detach().requires_grad_()
    losses = [F.cross_entropy(inner((x + draw).square()), y, reduction="sum") for draw in draws]
    return torch.stack([torch.autograd.grad(loss, x)[0] for loss in losses])


# --- losses


def test_losses_in_closed_form():
    logits = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.0, 4.0, 1.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([0, 3])
    assert adversarial_loss(logits, y, "margin").tolist() == [-1.0, 2.0]
    assert adversarial_loss(logits, y, "dlr").tolist() == pytest.approx([-1 / (3 - 1), 2 / (4 - 1)])
    expected = [logits[i].logsumexp(0).item() - logits[i, y[i]].item() for i in range(2)]
    assert adversarial_loss(logits, y, "ce").tolist() == pytest.approx(expected)


def test_dlr_is_blind_to_the_scale_and_finite_on_equal_logits(linear_classifier, images, labels):
    logits = linear_classifier(images)
    scaled = adversarial_loss(1e4 * logits + 7, labels, "dlr")
    assert torch.allclose(scaled, adversarial_loss(logits, labels, "dlr"), rtol=1e-9)
    assert torch.equal(adversarial_loss(torch.ones(2, 4), torch.tensor([0, 1]), "dlr"), torch.zeros(2))


def test_losses_refuse_what_they_cannot_judge():
    with pytest.raises(ValueError, match="'hinge'"):
        adversarial_loss(torch.zeros(1, 3), torch.tensor([0]), "hinge")
    with pytest.raises(ValueError, match="the view has 2; use loss margin or ce"):
        adversarial_loss(torch.zeros(1, 2), torch.tensor([0]), "dlr")


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_loss(loss, linear_classifier, images, labels):
    x = images.clone().requires_grad_()
    total = adversarial_loss(linear_classifier(x.square()), labels, loss).sum()
    view = nn.Sequential(Square(), linear_classifier)
    gradient, wrong = loss_gradient(view, images, labels, loss=loss)
    assert torch.allclose(gradient, torch.autograd.grad(total, x)[0], rtol=0, atol=1e-12)
    assert torch.equal(wrong, view(images).argmax(1) != labels)


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


# --- several evaluations


@pytest.mark.parametrize("mode", EOT_MODES)
def test_modes_in_closed_form(mode, linear_classifier, images, labels, draws):
    each = each_gradient(linear_classifier, draws, images, labels)
    x = images.clone().requires_grad_()
    mean_logits = torch.stack([linear_classifier((x + draw).square()) for draw in draws]).mean(0)
    expected = {
        "grad_mean": each.mean(0),
        "sign_vote": each.sign().sum(0),
        "logit_mean": torch.autograd.grad(F.cross_entropy(mean_logits, labels, reduction="sum"), x)[0],
    }
    gradient, wrong = loss_gradient(Noisy(linear_classifier, draws), images, labels, 5, mode=mode)
    assert torch.allclose(gradient, expected[mode], rtol=0, atol=1e-12)
    others = [value for name, value in expected.items() if name != mode]
    assert not any(torch.allclose(gradient, other, rtol=0, atol=1e-2) for other in others)
    if mode == "logit_mean":
        assert torch.equal(wrong, mean_logits.argmax(1) != labels)


@pytest.mark.parametrize("mode", EOT_MODES)
@pytest.mark.parametrize("chunk", [1, 2, 5, 9])
def test_chunks_change_nothing(mode, chunk, linear_classifier, images, labels, draws):
    whole, chunked = Noisy(linear_classifier, draws), Noisy(linear_classifier, draws)
    expected = loss_gradient(whole, images, labels, 5, mode=mode)
    gradient, wrong = loss_gradient(chunked, images, labels, 5, mode=mode, chunk=chunk)
    assert torch.allclose(gradient, expected[0], rtol=0, atol=1e-12) and torch.equal(wrong, expected[1])
    assert whole.asked == [5] and max(chunked.asked) == min(chunk, 5)
    assert sum(chunked.asked) == (10 if mode == "logit_mean" and chunk < 5 else 5)


@pytest.mark.parametrize("mode", EOT_MODES)
def test_chunks_see_the_draws_once(mode, linear_classifier, images, labels):
    """Both passes of chunked mean logits see the same fresh noise, and the generator moves on by one pass."""
    view = Random(linear_classifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        noise = torch.stack([torch.randn_like(images) for _ in range(3)])
        after = torch.get_rng_state()
        torch.manual_seed(4)
        gradient, _ = loss_gradient(view, images, labels, 3, mode=mode, chunk=1)
        assert torch.equal(torch.get_rng_state(), after)
    expected, _ = loss_gradient(Noisy(linear_classifier, noise), images, labels, 3, mode=mode)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", EOT_MODES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_many_evaluations_change_nothing_on_a_deterministic_view(mode, norm, linear_classifier, images, labels):
    view = nn.Sequential(Square(), linear_classifier)
    one, six, chunked = (
        PGD(ThreatModel(norm, 0.1), steps=4, eot=eot, eot_mode=mode, eot_chunk=chunk)(view, images, labels)
        for eot, chunk in [(1, None), (6, None), (6, 4)]
    )
    for other in (six, chunked):
        assert torch.allclose(one.last, other.last, rtol=0, atol=1e-10)
        assert torch.allclose(one.any, other.any, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", EOT_MODES)
def test_zero_gradients_stay_zero(mode, images, labels):
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x.flatten(1)[:, :3] + torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype)

    gradient, wrong = loss_gradient(Flat(), images, labels, 3, mode=mode, chunk=2)
    assert (gradient == 0).all() and torch.equal(wrong, labels != 2)


@pytest.mark.parametrize("mode", EOT_MODES)
def test_a_detached_view_is_an_error(mode, linear_classifier, images, labels):
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return linear_classifier(x.detach())

    with pytest.raises(RuntimeError, match="without a gradient"):
        loss_gradient(Detached(), images, labels, 2, mode=mode, chunk=1)


# --- labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3, 1]), "from 0 to 2, as the view has 3 logits; they range from 0 to 3"),
        (torch.tensor([0, -1, 1]), "range from -1 to 1"),
        (torch.tensor([0.0, 1.0, 2.0]), "integers.*torch.float32"),
        (torch.tensor([[0], [1], [2]]), r"shape \(3,\); got torch.int64 of shape \(3, 1\)"),
        (torch.tensor([0, 1]), r"shape \(3,\).*\(2,\)"),
        (torch.tensor([True, False, True]), "torch.bool"),
    ],
)
def test_what_is_no_label_is_refused(labels, message):
    for refuse in (lambda: check_labels(labels, 3, 3), lambda: adversarial_loss(torch.zeros(3, 3), labels)):
        with pytest.raises(ValueError, match=message):
            refuse()


def test_labels_pass():
    check_labels(torch.tensor([0, 2, 1]), 3, 3)
    check_labels(torch.tensor([0, 200], dtype=torch.uint8), 2)
    check_labels(torch.empty(0, dtype=torch.long), 0, 3)
