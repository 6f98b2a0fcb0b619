"""The binarization test: could the attack find an adversarial example that is known to be there?

Reference: Zimmermann, Brendel, Tramer, Carlini, "Increasing Confidence in Adversarial Robustness Evaluations" (2022),
section 4 and Algorithm 1.

    inner points: x, and random points within 0.95 eps of it;  one boundary point b at distance eps
    train a linear readout on the features of the whole defence that tells b from the inner points
    move its threshold to 0.999 of the way to b: the points next to b are now adversarial examples of x
    the attack passes on x if it finds one; a random search that does as well means that the test was too easy
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lit_pursamere.defense import Defense
from lit_pursamere.seeding import generator
from lit_pursamere.threat import ThreatModel, image_norm, over_images

__all__ = ["at_distance", "inner_points", "plant", "random_direction", "random_points", "readout_layer"]

GAP = 0.05  # relative distance between the inner points and the sphere
CLOSENESS = 0.999


def random_direction(like: Tensor, threat: ThreatModel, rng: torch.Generator) -> Tensor:
    """Random displacements, of the shape of `like` (B, C, H, W): uniform (linf), Gaussian (l2) or Laplace (l1)."""
    if threat.norm == "linf":
        return (2 * torch.rand(like.shape, generator=rng) - 1).to(like)
    noise = torch.randn(like.shape, generator=rng)
    if threat.norm == "l1":
        noise = noise.sign() * torch.empty(like.shape).exponential_(generator=rng)
    return noise.to(like)


def at_distance(x: Tensor, direction: Tensor, threat: ThreatModel, distance: Tensor) -> Tensor:
    """The points x + t direction, clamped to the box, that lie at these distances (B,) from x (B, C, H, W).

    Clamping shortens a displacement, so t is found by bisection; where the box ends before, the farthest point.
    """
    unit = direction / over_images(image_norm(direction, threat.norm), x).clamp_min(1e-12)
    low, high = torch.zeros_like(distance), torch.full_like(distance, 1e3)
    for _ in range(60):
        middle = (low + high) / 2
        short = threat.distance((x + over_images(middle, x) * unit).clamp(0, 1), x) <= distance
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (x + over_images(low, x) * unit).clamp(0, 1)


def inner_points(x: Tensor, count: int, threat: ThreatModel, rng: torch.Generator) -> Tensor:
    """x (1, C, H, W) and `count` random points of the smaller ball around it, (1 + count, C, H, W)."""
    copies = x.expand(count, *x.shape[1:])
    direction = random_direction(copies, threat, rng)
    radius = (1 - GAP) * threat.eps
    if threat.norm == "linf":
        return torch.cat([x, (copies + radius * direction).clamp(0, 1)])
    share = torch.rand(count, generator=rng) ** (1 / x[0].numel())
    return torch.cat([x, at_distance(copies, direction, threat, (radius * share).to(x))])


def readout_layer(classifier: nn.Module, x: Tensor) -> str:
    """Name of the linear layer whose output the classifier returns as logits.

    Raises:
        ValueError: If there is none.
    """
    seen: dict[str, Tensor] = {}
    layers = {name: module for name, module in classifier.named_modules() if name and isinstance(module, nn.Linear)}
    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            logits = classifier(x)
    finally:
        for handle in handles:
            handle.remove()
    found = [name for name, output in seen.items() if output.shape == logits.shape and torch.equal(output, logits)]
    if not found:
        raise ValueError("the classifier does not return the output of a linear layer; its features are unknown")
    return found[-1]


def _features(defense: Defense, layer: nn.Module, x: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """What the readout layer sees on images (N, C, H, W), and the logits; both (N, ...) in float64."""
    caught: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        with torch.no_grad():
            logits = torch.cat([defense(images) for images in x.split(batch)])
    finally:
        handle.remove()
    return torch.cat(caught).double(), logits.double()


def plant(
    defense: Defense, x: Tensor, threat: ThreatModel, inner: int = 49, batch: int = 64, seed: int = 0
) -> tuple[Defense, Tensor] | None:
    """Plant an adversarial example into a defence.

    Args:
        defense: The defence; its classifier ends in a linear layer.
        x: The image (1, C, H, W) to plant it around.
        threat: The ball.
        inner: Random points that must be told from the planted one; fewer than there are features, or no readout may
            exist.
        batch: Images per forward pass.
        seed: Seed of the points.

    Returns:
        The defence with a readout of two classes, 0 at x and 1 at the planted point, and that point (1, C, H, W); None
        if no readout tells it from the inner points.

    Raises:
        ValueError: If the classifier does not end in a linear layer.
    """
    rng = generator(seed, 0)
    name = readout_layer(defense.classifier, x)
    boundary = at_distance(x, random_direction(x, threat, rng), threat, torch.full_like(x.flatten(1)[:, 0], threat.eps))
    points = torch.cat([inner_points(x, inner, threat, rng), threat.project(boundary, x)])
    features, logits = _features(defense, defense.classifier.get_submodule(name), points, batch)
    weight, offset = _separate(features)
    values = features @ weight + offset
    if not values[-1] > values[:-1].max():
        return None
    threshold = values[:-1].max() + CLOSENESS * (values[-1] - values[:-1].max())
    scale = (logits.max() - logits.min()) / (values.max() - values.min())
    planted = _with_readout(defense, name, weight * scale / 2, (offset - threshold) * scale / 2)
    with torch.no_grad():  # rounding in another batch must not hide it
        seen = torch.cat([planted(point) for point in (x, points[-1:])]).argmax(1).tolist()
    return (planted, points[-1:]) if seen == [0, 1] else None


def _separate(features: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (F,) and offset of a linear function that is large at the last of the points (N, F) alone."""
    from sklearn.linear_model import LogisticRegression  # heavy, and needed for this test alone

    centre, size = features.mean(0), features.std().clamp_min(1e-12)
    labels = torch.zeros(len(features), dtype=torch.long)
    labels[-1] = 1
    fit = LogisticRegression(C=1e8, max_iter=5000).fit(((features - centre) / size).cpu().numpy(), labels.numpy())
    weight = torch.from_numpy(fit.coef_[0]).to(features) / size
    return weight, torch.tensor(fit.intercept_[0]).to(features) - centre @ weight


def _with_readout(defense: Defense, name: str, weight: Tensor, offset: Tensor) -> Defense:
    """The defence with another last layer, whose two logits are minus and plus a linear function."""
    classifier = copy.deepcopy(defense.classifier)
    old: Any = classifier.get_submodule(name)
    new = nn.Linear(old.in_features, 2).to(old.weight)
    with torch.no_grad():
        new.weight.copy_(torch.stack([-weight, weight]))
        new.bias.copy_(torch.stack([-offset, offset]))
    classifier.set_submodule(name, new)
    return Defense(defense.purifier, classifier, defense.ensemble, defense.surrogate)


def random_points(x: Tensor, count: int, threat: ThreatModel, seed: int) -> Tensor:
    """Random points at distance eps from x (1, C, H, W): what the test's random search tries, (count, C, H, W)."""
    rng, copies = generator(seed, 1), x.expand(count, *x.shape[1:])
    distance = torch.full_like(copies.flatten(1)[:, 0], threat.eps)
    points = at_distance(copies, random_direction(copies, threat, rng), threat, distance)
    return threat.project(points, copies)
