"""Shared worlds of the tests: recorded reference data, and small models whose truth is known in closed form."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_pursamere import stopping
from lit_pursamere.diffusion import (
    AutoencoderScore,
    DDPMppScore,
    DDPMScore,
    DenoiserScore,
    EDMScore,
    GaussianMixtureScore,
    GuidedDiffusionScore,
    NCSNv2Score,
    ScoreModel,
)
from lit_pursamere.networks import DenoisingAutoencoder, FFDNet

torch.set_num_threads(1)
os.environ["LIT_PURSAMERE_KERNELS"] = "0"  # what was built on a machine decides nothing; tests of kernels build theirs


def pytest_collection_finish() -> None:
    """Libraries stay: whoever collects garbage in a test need not look through them, which takes half a second."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first: at the end, processes that share the tests wait for short ones only."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def errors_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see what users see: CI sets this variable to get tracebacks from the commands that it runs itself."""
    monkeypatch.delenv("LIT_PURSAMERE_TRACEBACK", raising=False)


@pytest.fixture(autouse=True, scope="session")
def tracebacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of the temporary files in which commands that fail, here or in other processes, leave their tracebacks."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tracebacks")
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("TMPDIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def warm_commands() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Within its context commands started as `python -m lit_pursamere` spare the imports: a server forks them.

    They are processes with status, signals, streams and group as ever, but not children of what starts them.
    """
    from benchmarks.faults.machine import forked
    from benchmarks.faults.server import ADDRESS, Spawned

    with forked() as server:

        @contextmanager
        def warm() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(ADDRESS, server.address)
                patch.setattr(subprocess, "Popen", Spawned)
                yield

        yield warm


@pytest.fixture
def warm(warm_commands: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """`warm_commands`, for a test."""
    with warm_commands():
        yield


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.fixture
def call():
    """Make an object that pickles as a call of a function."""
    return Call


@pytest.fixture
def heeding(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process of a command's own, which was told nothing yet, whatever the tests were started to ignore."""
    before = {sent: signal.getsignal(sent) for sent in stopping.SIGNALS}
    monkeypatch.setattr(stopping, "last", -stopping.TOGETHER)
    for sent in before:
        signal.signal(sent, signal.SIG_DFL)
    stopping.heed(*stopping.SIGNALS)
    yield
    for sent, handler in before.items():
        signal.signal(sent, handler)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the numbers recorded from the reference implementations; tests that need it skip without it."""
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("LIT_PURSAMERE_GOLDEN", root / ".." / "shared" / "golden"))
    if not folder.is_dir():
        pytest.skip("no recorded reference data; set LIT_PURSAMERE_GOLDEN to its folder")
    return folder.resolve()


@pytest.fixture(scope="session")
def golden_tensors(golden: Path) -> Callable[[str], dict[str, Tensor]]:
    """Read a recorded file by its name without ending, `ncsnv2/cifar10_small_io`."""
    return lambda name: load_file(golden / f"{name}.safetensors")


@pytest.fixture(scope="session")
def golden_score(golden: Path) -> Callable[..., NCSNv2Score]:
    """Build the small NCSNv2 whose outputs were recorded, for `cifar10` or `mnist`."""
    sizes = {"cifar10": (8, 3, 32), "mnist": (16, 1, 28)}

    def build(name: str, dtype: torch.dtype = torch.float32) -> NCSNv2Score:
        size = dict(zip(("ngf", "channels", "image_size"), sizes[name], strict=True))
        return NCSNv2Score(checkpoint=str(golden / f"ncsnv2/{name}_small_weights.safetensors"), **size).to(dtype)

    return build


@pytest.fixture
def mixture() -> GaussianMixtureScore:
    """Two modes of unequal weight and width, on 2x2 images with 2 channels, exact in float64."""
    with default_dtype(torch.float64):
        generator = torch.Generator().manual_seed(5)
        means = torch.stack([torch.full((2, 2, 2), 0.3), torch.full((2, 2, 2), 0.7)])
        means = means + 0.1 * torch.rand(means.shape, generator=generator) - 0.05
        return GaussianMixtureScore(means, std=[0.1, 0.15], weights=[0.6, 0.4])


@pytest.fixture
def images() -> Tensor:
    """Eight images of the mixture's shape, float64, well inside the box."""
    generator = torch.Generator().manual_seed(6)
    return 0.15 + 0.7 * torch.rand((8, 2, 2, 2), generator=generator, dtype=torch.float64)


@pytest.fixture
def linear_classifier() -> nn.Module:
    """Three-class linear classifier of the mixture's images, float64: its optimal attacks are known."""
    generator = torch.Generator().manual_seed(7)
    linear = nn.Linear(8, 3, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.randn((3, 8), generator=generator, dtype=torch.float64))
        linear.bias.zero_()
    return nn.Sequential(nn.Flatten(), linear)


TINY = {"channels": 1, "image_size": 8}
TINY_DDPM = {"block_out_channels": (8, 8), "attention": (False, True), "layers_per_block": 1, "norm_num_groups": 4}
TINY_DDPMPP = {"nf": 8, "ch_mult": (1, 1), "num_res_blocks": 1, "attn_resolutions": (4,)}
TINY_EDM = {"model_channels": 8, "channel_mult": (1, 1), "num_blocks": 1, "attn_resolutions": (4,)}
TINY_GUIDED = {
    "model_channels": 8, "channel_mult": (1, 1), "num_res_blocks": 1, "attention_resolutions": (4,),
    "num_head_channels": 4, "norm_num_groups": 4,
}  # fmt: skip
TINY_SCORES: dict[str, Callable[[], ScoreModel]] = {
    "NCSNv2": lambda: NCSNv2Score(ngf=4, **TINY),
    "DDPM": lambda: DDPMScore(**TINY_DDPM, **TINY),
    "DDPM++": lambda: DDPMppScore(**TINY_DDPMPP, **TINY),
    "EDM": lambda: EDMScore(**TINY_EDM, **TINY),
    "EDM-VP": lambda: EDMScore(**TINY_EDM, **TINY, preconditioning="vp"),
    "EDM-VE": lambda: EDMScore(**TINY_EDM, **TINY, preconditioning="ve"),
    "guided": lambda: GuidedDiffusionScore(**TINY_GUIDED, **TINY),
    "denoiser": lambda: DenoiserScore(FFDNet(1, 4, 3), sigma_max=1.0),
    "DAE": lambda: AutoencoderScore(DenoisingAutoencoder(1, 4)),
}


@pytest.fixture(scope="session")
def tiny_scores() -> Callable[[str], ScoreModel]:
    """Build the score model of a family for 8x8 images with one channel: seeded random weights, float32."""

    def build(family: str) -> ScoreModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(8)
            model = TINY_SCORES[family]()
            if family != "NCSNv2":  # U-Nets start with last layers near 0: move them all away from there
                for parameter in model.parameters():
                    parameter.data.add_(0.1 * torch.randn(parameter.shape))
        return model

    return build


@pytest.fixture
def tiny_score(tiny_scores) -> ScoreModel:
    """NCSNv2 of width 4 on 8x8 images with one channel, seeded random weights, float32."""
    return tiny_scores("NCSNv2")


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """Folder that holds configs/ and checkpoints/."""
    return Path(__file__).resolve().parents[1]
