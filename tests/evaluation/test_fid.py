"""FID: the closed form on known features, an order that one can see, weights by path, and what a number depends on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from torch import nn

from lit_pursamere.cli.main import main
from lit_pursamere.data.pictures import encode
from lit_pursamere.diffusion import GaussianMixtureScore, LogUniformObjective
from lit_pursamere.evaluation.fid import feature_network, frechet_distance, samples, stored_images

ROOT = Path(__file__).parents[2]
DATA = "--data=configs/data/digits.yaml"


class Extractor(nn.Module):
    """A small extractor of features: two of four channels each."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, width, 3), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        return self.last(self.first(x).relu()).flatten(2).mean(2)


class Map(Extractor):
    """Forgets to pool."""

    def forward(self, x):
        return self.first(x)


@pytest.fixture
def extractor(tmp_path):
    """A file with its weights, and what a command must be told of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        file = tmp_path / "extractor.safetensors"
        save_file(Extractor().state_dict(), file)
    return file


def images(count, seed=0, shape=(1, 8, 8)):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_closed_form_of_the_features():
    real, other = images(90), 0.7 * images(80, 1) + 0.1
    found, dimension = frechet_distance(real.split(40), other.split(33), nn.Flatten())
    a, b = (((x * 255).round() / 255).flatten(1).double().numpy() for x in (real, other))
    c, d = np.cov(a.T), np.cov(b.T)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert (found, dimension) == (pytest.approx(expected, rel=1e-4), 64)


def test_it_grows_with_what_is_done_to_images(extractor):
    network, _ = feature_network(Extractor(), extractor)
    real, noise = images(400), torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = [frechet_distance([real], [(real + s * noise).clamp(0, 1)], network)[0] for s in (0, 0.2, 0.5)]
    assert found[0] == pytest.approx(0, abs=1e-9) and 1e-6 < found[1] < found[2]


def test_weights_are_those_of_the_file(extractor):
    network, told = feature_network(Extractor(), extractor)
    assert told["weights_sha256"] == hashlib.sha256(extractor.read_bytes()).hexdigest()
    assert told["features"] == "Extractor" and not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(network.first.weight, load_file(extractor)["first.weight"])
    with pytest.raises(ValueError, match=r"first\.weight"):
        feature_network(Extractor(5), extractor)


def test_missing_weights_are_one_clear_error():
    with pytest.raises(ValueError, match="FID needs the weights of Extractor, and none are downloaded: give --weights"):
        feature_network(Extractor(), None)
    assert feature_network(nn.Flatten(), None)[1]["features"] == "Flatten"


@pytest.mark.parametrize(
    ("real", "features", "message"),
    [(images(1), nn.Flatten(), "at least two images; got 1 and 3"), (images(3), Map(), r"makes \(1, 4, 6, 6\)")],
)
def test_what_cannot_be_compared_is_refused(real, features, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance([real], [images(3)], features)


def test_samples_are_a_function_of_the_seed():
    world, objective = GaussianMixtureScore([[[[0.3]]], [[[0.7]]]], 0.05), LogUniformObjective(steps=4)
    draw = [torch.cat([*samples(world, objective, (1, 1, 1), 5, 2, seed)]) for seed in (0, 0, 1)]
    assert draw[0].shape == (5, 1, 1, 1) and torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


def test_stored_images_are_read_from_folders_and_arrays(tmp_path):
    pixels = (images(3) * 255).round().to(torch.uint8)
    for number, image in enumerate(pixels):
        (tmp_path / f"{number}.png").write_bytes(encode(image))
    np.save(tmp_path / "array.npy", pixels.numpy())
    for place in (tmp_path, tmp_path / "array.npy"):
        (batch,) = stored_images(place).batches(8)
        assert torch.equal((batch * 255).round().to(torch.uint8), pixels)
    assert len(stored_images(tmp_path).chosen(2, 0)) == 2
    (tmp_path / "wide.png").write_bytes(encode(torch.zeros(1, 4, 5, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="one size"):
        list(stored_images(tmp_path).batches(8))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        stored_images(tmp_path / "nowhere")


def test_the_command_records_what_the_number_depends_on(tmp_path, extractor, capsys):
    np.savez(tmp_path / "made.npz", images=images(30).numpy())
    options = [DATA, "--split=test", f"--images={tmp_path / 'made.npz'}", f"--features={__name__}.Extractor"]
    options = [
        *options[:3],
        "--features=torch.nn.Flatten",
        "--n=20",
        "--seed=3",
        f"--output={tmp_path / 'out/fid.json'}",
    ]
    assert main(["fid", *options]) == 0
    record = json.loads((tmp_path / "out/fid.json").read_text())
    told = capsys.readouterr().out
    assert f"FID {record['fid']:.4g} of 20 images to 397 test images of digits, by Flatten; fewer images" in told
    assert [record[name] for name in ("n", "n_real", "seed", "split", "dimension")] == [20, 397, 3, "test", 64]
    assert record["features_digest"] and record["versions"]["torch"] and record["fid"] > 1


def test_the_command_draws_samples_with_weights_by_path(tmp_path, capsys):
    """The shipped classifier's logits as features."""
    weights, output = ROOT / "checkpoints/digits/classifier.safetensors", tmp_path / "fid.json"
    assert main(["fid", DATA, "--score_model=configs/score_model/digits.yaml", "--objective=NCSNObjective",
                 "--objective.sigmas.count=2", "--n=4", "--features=configs/network/wrn_10_2_grey.yaml",
                 f"--weights={weights}", f"--output={output}"]) == 0  # fmt: skip
    record = json.loads(output.read_text())
    assert record["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (record["samples_of"]["class"], record["objective"]["class"]) == ("NCSNv2Score", "NCSNObjective")
    assert (record["n"], record["n_real"], record["dimension"]) == (4, 1400, 10)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which data are real"),
        ([DATA], "FID of what"),
        ([DATA, "--score_model=configs/score_model/digits.yaml"], "--objective DDPMObjective"),
        ([DATA, "--images=x.npz", "--n=1"], "n must be at least 2"),
        ([DATA, "--images=x.npz"], "weights of FIDInception"),
    ],
)
def test_what_is_missing_is_said_in_one_line(words, message, capsys):
    assert main(["fid", *words]) == 1
    assert message in capsys.readouterr().err.splitlines()[0]


def test_inception_of_2015_has_the_names_and_the_pooling_of_the_shared_file():
    from lit_pursamere.networks.fid_inception import FIDInception, _without_border

    network = FIDInception()
    state = network.state_dict()
    assert sum(p.numel() for p in network.parameters()) == 23_850_960
    assert state["fc.weight"].shape == (1008, 2048) and "Conv2d_1a_3x3.bn.running_var" in state
    assert not any(name.startswith("AuxLogits") for name in state)
    x = torch.rand(1, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    (found,) = _without_border(network, (torch.nn.functional.avg_pool2d(x, 3, 1, 1),))
    expected = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(found, expected)
    seen = []
    network.Mixed_7c.branch_pool.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    block = network.Mixed_7c.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 2048)
    block.remove()
    torch.testing.assert_close(seen[-1], torch.nn.functional.max_pool2d(seen[0], 3, 1, 1))
