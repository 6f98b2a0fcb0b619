"""Score models and noise that remember what they were asked, and noise that was recorded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_pursamere.diffusion import NoiseSource, ScoreModel, SeededNoise


class Watched(ScoreModel):
    """Passes everything on and remembers the images and levels it saw."""

    def __init__(self, inner: ScoreModel) -> None:
        super().__init__()
        self.inner, self.seen, self.sigmas = inner, [], []

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        self.seen.append(y.detach())
        self.sigmas.append(float(sigma))
        return self.inner(y, sigma)


class WatchedNoise(NoiseSource):
    """Draws from another source and remembers the streams; one entry per Gaussian image."""

    def __init__(self, inner: NoiseSource | None = None) -> None:
        self.inner, self.drawn = inner or SeededNoise(0), []

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        self.drawn += [(stream, k)] * count
        return self.inner.draw(stream, k, count, like)


class RecordedNoise(NoiseSource):
    """Noise by stream: entry k of `forward`, entry k - 1 of `reverse`, each (B, C, H, W)."""

    def __init__(self, forward: Tensor, reverse: Tensor | None = None) -> None:
        self.forward, self.reverse = forward, reverse

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        noise = self.forward[k] if stream == "forward" else self.reverse[k - 1]
        return noise.to(like).unsqueeze(0)


@pytest.fixture
def watched() -> type[Watched]:
    return Watched


@pytest.fixture
def watched_noise() -> WatchedNoise:
    return WatchedNoise()


@pytest.fixture
def recorded_noise() -> type[RecordedNoise]:
    return RecordedNoise


@pytest.fixture
def smooth_classifier() -> torch.nn.Module:
    """Two smooth layers from the mixture's images (2x2x2) to three logits, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        layers = torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)
        return torch.nn.Sequential(torch.nn.Flatten(), *layers).double()
