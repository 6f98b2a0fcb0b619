"""The shipped weights are those that checkpoints/README.md describes, and the denoisers do what their cards say."""

from __future__ import annotations

import re

import pytest
import torch

from lit_pursamere.data import Digits
from lit_pursamere.diffusion import AutoencoderScore
from lit_pursamere.networks import DenoisingAutoencoder, MagNetAutoencoder
from lit_pursamere.weights import inspect_weights, sha256

DENOISERS = {
    "denoiser": (lambda: DenoisingAutoencoder(1, 32), 0.15),
    "magnet": (lambda: MagNetAutoencoder(1, pooling=False), 0.01),
}


def test_the_table_describes_every_shipped_file(repository_root):
    folder = repository_root / "checkpoints"
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\| `([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(
        str(path.relative_to(folder)) for path in folder.glob("*/*.safetensors")
    )
    for name, told, digest in rows:
        assert sha256(folder / name) == digest, name
        command = inspect_weights(folder / name).metadata["command"]
        assert command.split(" --data ")[0] in told, name


@pytest.mark.parametrize("name", DENOISERS)
def test_the_denoisers_of_the_digits_reach_their_validation_loss(name, repository_root):
    build, sigma2 = DENOISERS[name]
    path = repository_root / f"checkpoints/digits/{name}.safetensors"
    r = AutoencoderScore(build(), sigma2, str(path))
    digits = Digits(val_size=300)
    digits.setup("validate")
    x = digits.sources["train"].images[torch.tensor(digits.indices("val"))]
    noise = torch.randn((10, *x.shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = (r.denoise((x + sigma2**0.5 * noise).flatten(0, 1), 0.0) - x.repeat(10, 1, 1, 1)).square()
    expected = float(inspect_weights(path).metadata["val/loss"])
    assert loss.flatten(1).sum(1).mean().item() == pytest.approx(expected, rel=0.03)
