"""Every measurement of a toy run gives sensible numbers; a broken one costs itself; hours are plain arithmetic."""

import json
import math
import time

import pytest
import torch
import yaml

from lit_pursamere.estimate.calls import count_calls
from lit_pursamere.purifiers import ADBM, DP_DDIM, DP_DDPM, DP_EDM, GDMP, DiffPure, ExtraCorrector

ROW = {"batch", "images_per_s", "tflop_per_s", "of_peak", "memory_gib"}


@pytest.fixture
def toy(script, tmp_path):
    """A session that writes to tmp_path, and the module to measure in it."""
    session = script("session")
    options = session.arguments("a test", 4).parse_args(["--toy", f"--out={tmp_path}", f"--pack={tmp_path}"])
    return script("throughput"), session.Session("throughput", options)


def rows(results):
    """Rows of images/s, by step and what is told apart within it."""
    for name, result in results.items():
        parts = {"": result} if "images_per_s" in result else result
        for part, row in parts.items():
            if isinstance(row, dict) and "images_per_s" in row:
                yield f"{name} {part}".strip(), row


@pytest.mark.slow
def test_a_toy_run_measures_everything(toy, tmp_path):
    throughput, session = toy
    throughput.measure(session, toy=True)
    report = json.loads((tmp_path / "throughput.json").read_text())
    assert report["faults"] == {} and report["left_out"] == []
    results, found = report["results"], dict(rows(report["results"]))
    for name, row in found.items():
        assert row.keys() >= ROW, name
        for key in ("batch", "images_per_s", "tflop_per_s", "of_peak"):
            assert 0 < row[key] < math.inf, (name, key)
        assert row["memory_gib"] is None, name
    for precision in ("float32", "tf32", "bf16"):
        assert min(results[f"peak, {precision}"].values()) > 0
        for ngf in (4, 6):
            assert {f"PurSAMERE ngf {ngf}, {precision}, {mode}" for mode in ("eager", "graph")} <= found.keys()
        for kind in ("forward", "forward and input gradient"):
            assert {f"{network}, {precision} {kind}" for network in ("EDM", "small EDM")} <= found.keys()
    for network in ("WRN-10-1", "small EDM", "NCSNv2 ngf 6"):
        assert {f"training {network}, bf16-mixed, {mode}" for mode in ("eager", "compiled")} <= found.keys()
    assert {f"PurSAMERE ngf 6, bf16, compiled, {mode}" for mode in ("eager", "graph")} <= found.keys()
    assert {"EoT 3, batched, tf32", "EoT 3, serial, tf32"} <= found.keys()
    shrinking, filled = (found[f"80% fall early, {name}, tf32"] for name in ("fixed batches", "slots"))
    assert filled["calls"] <= shrinking["calls"]
    assert results["PurSAMERE, deviation from float32"]["float32, graph"]["largest"] < 1e-6
    assert results["PurSAMERE, deviation from float32"]["bf16"]["median"] > 1e-6  # another arithmetic, indeed
    check_hours(results, (tmp_path / "gpu_hours.md").read_text())


def check_hours(results, text):
    fastest = max(results[f"PurSAMERE ngf 6, float32, {mode}"]["images_per_s"] for mode in ("eager", "graph"))
    hours = results["GPU-hours"]
    table_2 = next(table for name, table in hours.items() if name.startswith("Hoang et al. (2026), Table 2: 3 radii"))
    assert table_2["gpu_hours"]["float32"] == pytest.approx(630_000 / fastest / 3600)
    assert len(text.splitlines()) == 2 + len(hours)
    assert all(set(table["gpu_hours"]) == {"float32", "tf32", "bf16"} for table in hours.values())


def test_a_broken_measurement_is_listed_and_the_rest_goes_on(toy, monkeypatch):
    throughput, session = toy

    def broken(purifier, x, mode):
        if mode == "graph":
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda: x

    monkeypatch.setattr(throughput, "launched", broken)
    for name in ("score_networks", "trainings", "attacks", "compiled_purification", "deviations"):
        monkeypatch.setattr(throughput, name, lambda *args, **settings: {})
    throughput.measure(session, toy=True)
    faults = session.report["faults"]
    assert len(faults) == 6 and all(", graph" in name and "is capturing" in told for name, told in faults.items())
    assert "PurSAMERE ngf 6, float32, eager" in session.report["results"]
    hours = session.report["results"]["GPU-hours"]
    assert hours["Liu et al. (2025), Table 9: DP_EDM"]["gpu_hours"] == {}  # the network's speed is not known
    assert hours["Liu et al. (2025), Table 9: DP_EDM"]["network_evaluations"] > 0


def test_what_is_captured_is_the_purification(toy):
    throughput, session = toy
    bench = throughput.Bench(session, throughput.TOY)
    purifier, x = throughput.pursamere(bench, 6, levels=3).double(), bench.images(2).double()
    torch.testing.assert_close(throughput.launched(purifier, x, "graph")(), purifier(x), rtol=0, atol=1e-12)
    assert all(isinstance(sigma, float) for sigma in purifier.sigmas)  # left as it was


def test_flop_are_those_of_the_paper_s_network(toy):
    assert toy[0].gradient_flop(128, 32) == pytest.approx(39.6e9, rel=2e-3)


def test_the_fastest_batch_that_fits(script):
    fastest = script("measuring").fastest
    speeds = {1: 10.0, 4: 30.0, 16: 20.0}

    def row(batch):
        if batch not in speeds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"batch": batch, "images_per_s": speeds[batch]}

    assert fastest((1, 4, 16, 64, 256), row) == {"batch": 4, "images_per_s": 30.0, "tried": speeds}
    with pytest.raises(RuntimeError, match="not even 64 images"):
        fastest((64,), row)


def test_seconds_are_those_of_one_call_without_the_first(script):
    calls = []

    def work():
        calls.append(0)
        time.sleep(0.2 if len(calls) == 1 else 0.01)

    assert 0.01 <= script("measuring").seconds_of(work, torch.device("cpu")) < 0.1


@pytest.mark.parametrize(
    ("precision", "allowed", "dtype"), [("float32", False, 0), ("tf32", True, 0), ("bf16", False, 1)]
)
def test_arithmetic_lasts_as_long_as_its_block(script, precision, allowed, dtype):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    ones = torch.ones(2, 2)
    with script("measuring").arithmetic(precision, torch.device("cpu")):
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (allowed, allowed, True)
        assert (ones @ ones).dtype == (torch.float32, torch.bfloat16)[dtype]
    assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == before
    with pytest.raises(ValueError, match="precision must be one of"), script("measuring").arithmetic("fp8", None):
        pass


def test_hours_of_pursamere_by_hand(script):
    tables = script("projection").gpu_hours({"float32": 1.0, "bf16": 10.0}, {}, flop={})
    table_2 = tables["Hoang et al. (2026), Table 2: 3 radii x 10,000 images, BPDA20"]
    assert table_2["gpu_hours"] == {"float32": pytest.approx(175.0), "bf16": pytest.approx(17.5)}
    assert table_2["network_evaluations"] == 630_000 * 1856
    training_set = tables["Hoang et al. (2026), Purified training set: 50,000 images, without SAM"]
    assert training_set["network_evaluations"] == 50_000 * 928


def test_hours_of_a_rival_by_hand(script):
    projection = script("projection")
    # Four systems of 99 calls; per image a clean verdict, two attacks of 200 gradients, and a verdict after each.
    plain, exact = 4 * 1024 * 3 * 99, 4 * 1024 * 400 * 99
    flop = dict.fromkeys(projection.NETWORKS, 1e12)
    speed = projection.Speed(forward=100.0, gradient=50.0)  # 0.01 s a forward, 0.04 s with its gradient
    table = projection.gpu_hours({}, {"tf32": speed}, flop)["Liu et al. (2025), Table 9: DP_EDM"]
    assert table["network_evaluations"] == plain + exact
    assert table["gpu_hours"]["tf32"] == pytest.approx((0.01 * plain + 0.05 * exact) / 3600)
    # Straight-through gradients only need values: 10 verdict copies twice, 600 copies of 20 calls.
    adp = projection.gpu_hours({}, {"tf32": speed}, flop)["Yoon et al. (2021), protocol adp"]
    assert adp["gpu_hours"]["tf32"] == pytest.approx(0.01 * 10_000 * (20 + 600) * 20 / 3600)


def test_the_markdown_has_a_row_for_every_table(script):
    tables = {"a": {"network_evaluations": 1234567, "gpu_hours": {"bf16": 1234.56}}, "b": {
        "network_evaluations": 1, "gpu_hours": {}}}  # fmt: skip
    assert script("projection").markdown(tables).splitlines() == [
        "| table | network evaluations | GPU-hours, bf16 |",
        "| --- | --- | --- |",
        "| a | 1.23e+06 | 1,234.6 |",
        "| b | 1 |  |",
    ]


def test_queries_are_those_of_the_protocols(script, repository_root):
    """Where an attack's queries are steps times EoT, its file says how many."""
    projection, folder = script("projection"), repository_root / "configs/protocol"
    for name in ("liu-dwbox", "liu", "liu-semi-128", "leekim", "leekim-bpda", "adbm-linf", "adp", "hill"):
        (attack,) = yaml.safe_load((folder / f"{name}.yaml").read_text())["model"]["init_args"]["attacks"].values()
        settings = yaml.safe_load((folder / attack).read_text())["init_args"]
        asked = projection.PROTOCOLS[name]
        assert asked.gradients == settings["steps"] * settings.get("eot", 1), name
        assert asked.exact == (settings["view"] == "exact"), name


def test_calls_are_those_of_the_purifiers(script, mixture):
    projection = script("projection")
    built = {
        projection.DIFFPURE: DiffPure(mixture), projection.DIFFPURE_L2: DiffPure(mixture, t_star=0.075),
        projection.CORRECTOR: ExtraCorrector(mixture), projection.ADBM: ADBM(mixture),
        projection.GDMP: GDMP(mixture, guide="none"), projection.DDPM: DP_DDPM(mixture),
        projection.DDIM_10: DP_DDIM(mixture), projection.BY_NFE[0]: DP_DDPM(mixture, steps=50),
        projection.EDM: DP_EDM(mixture),
    }  # fmt: skip
    for system, purifier in built.items():
        (tally,) = count_calls(purifier, torch.rand(1, 2, 2, 2), 10)
        assert tally.forward == system.calls, type(purifier).__name__
