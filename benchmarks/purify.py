"""How fast PurSAMERE purifies: against a plain loop, and against the convolution throughput of the machine.

    python benchmarks/purify.py                                    # about a minute on two CPU cores
    python benchmarks/purify.py --network edm --ngf 32 --kernels   # a small SongUNet instead of NCSNv2
    python benchmarks/purify.py --device cuda --ngf 128 --batch 128 --dtype bfloat16 --layout both --compile

Variants and convolutions take turns within every repeat, so that other load on the machine hits all of them alike.
Weights are random: the time does not depend on them. GFLOP/s counts the work that purification needs, 2 m L forwards
with their input gradients per image; the weight gradients of the plain loop are not credited. Two limits: the fastest
3x3 convolution of a few shapes, and the convolutions of this very network, one after the other, with nothing between.

    python benchmarks/purify.py --baseline HEAD~1 --kernels        # beside another revision's networks, same process
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lit_pursamere.diffusion import EDMScore, NCSNv2Score, NoiseLevels, ScoreModel
from lit_pursamere.networks import fused
from lit_pursamere.networks.kernels import library
from lit_pursamere.purifiers import PurSAMERE

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
PLAIN, KERNELS = "plain loop", "lit_pursamere, kernels"
# Adam's first step moves a pixel by the learning rate whatever the size of its gradient, so that in float32 rounding
# decides the direction of a few pixels. Whether two loops are the same algorithm is therefore settled in float64.
FLOAT64_TOLERANCE, FLOAT32_TOLERANCE = 1e-8, 2e-2
CLOCK = time.perf_counter  # or the CPU time of the process, which other programs on the machine hardly change
OWN = "the convolutions of the network"
PAPER_LEVELS, PAPER_DRAWS = 232, 4
# Purifications with SAM behind the paper's numbers; one without SAM counts as a half.
PAPER_JOBS = {
    "Table 1: 3 radii x 10,000 images, clean and gPGD20": 3 * 2 * 10_000,
    "Table 2: 3 radii x 10,000 images, BPDA20": 3 * 21 * 10_000,
    "Table 3: 3 norms x 1,000 images, BPDA200, and clean": 3 * 201 * 1_000 + 1_000,
    "Purified training set: 50,000 images, without SAM": 50_000 / 2,
}


def main() -> None:
    args = parse_arguments()
    if args.cpu_time:
        global CLOCK
        CLOCK, args.threads = time.process_time, 1
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    device = torch.device(args.device)
    report = {"arguments": vars(args), "machine": describe_machine(device)}
    purifier = build_purifier(args, args.levels).to(device)
    x = torch.rand((args.batch, args.channels, args.image_size, args.image_size)).to(device)

    report["flop"] = count_flop(args, purifier, x)
    report["float64"] = compare_in_float64(args, x)
    report["variants"], report["convolutions"] = measure(args, purifier, x, report["flop"]["per_image"])
    if (args.network, args.ngf, args.channels, args.image_size) == ("ncsnv2", 128, 3, 32):
        report["paper_hours"] = project_hours(args, report["variants"])
    print_report(report)
    if args.profile:
        print_profile(args, purifier, x)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    if not report["float64"]["passed"]:
        sys.exit("the two loops do not give the same images")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--network", choices=["ncsnv2", "edm"], default="ncsnv2", help="edm: a SongUNet of three levels"
    )
    parser.add_argument("--ngf", type=int, default=16, help="width of the network (paper: NCSNv2, 128)")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--levels", type=int, default=4, help="noise levels from 50 to 0.01 (paper: 232)")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time of one thread, for a busy machine")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16: autocast")
    parser.add_argument("--tf32", action="store_true", help="allow TF32 convolutions on CUDA")
    parser.add_argument("--layout", choices=[*LAYOUTS, "both"], default="channels_last")
    parser.add_argument("--compile", action="store_true", help="also measure PurSAMERE with a compiled network")
    parser.add_argument("--kernels", action="store_true", help="also measure with the library of networks.build")
    parser.add_argument("--baseline", metavar="REVISION", help="also measure with the NCSNv2 of another git revision")
    parser.add_argument(
        "--keep-memory", action="store_true", help="also measure as commands run: memory that is freed stays"
    )
    parser.add_argument("--profile", action="store_true", help="also print where one purification spends its time")
    parser.add_argument("--json", metavar="OUT", help="write every number to this file")
    args = parser.parse_args()
    if args.baseline and args.network != "ncsnv2":
        parser.error(f"--baseline knows ncsnv2 of other revisions, not {args.network}")
    return args


def build_purifier(args: argparse.Namespace, levels: int) -> PurSAMERE:
    image = {"channels": args.channels, "image_size": args.image_size}
    score_model = build_edm(args.ngf, **image) if args.network == "edm" else NCSNv2Score(ngf=args.ngf, **image)
    return PurSAMERE(score_model, draws=args.draws, sigmas=NoiseLevels(count=levels))


def build_edm(width: int, **image: int) -> ScoreModel:
    """EDM's network with three levels of a block each; its weights are all of order one, unlike those of a new one."""
    size = {"model_channels": width, "channel_mult": [1, 2, 2], "num_blocks": 1, "attn_resolutions": []}
    score_model = EDMScore(**size, augment_dim=0, dropout=0.0, **image)
    for weight in score_model.parameters():
        if weight.ndim > 1:
            nn.init.xavier_uniform_(weight)
    return score_model


def purify_plainly(score_model: ScoreModel, purifier: PurSAMERE, x_adv: Tensor) -> Tensor:
    """Do what `purifier` does as Algorithm 1 reads: one draw at a time, `backward` into image and weights, Adam."""
    x = x_adv.clone().requires_grad_()
    adam = torch.optim.Adam([x])

    def gradient(at: Tensor, sigma: float, xi: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        score_model.zero_grad()
        for draw in xi:
            loss = (draw - score_model.predict_noise(at + sigma * draw, sigma)).square().sum() / len(xi)
            loss.backward()
        return at.grad

    for k, (sigma, lr) in enumerate(zip(purifier.sigmas, purifier.lrs, strict=True), start=1):
        xi = purifier.noise.draw("level", k, purifier.draws, x_adv)
        g = gradient(x, sigma, xi)
        length = g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) + 1e-12
        x_max = (x + purifier.rho_sam * g / length).clamp(0, 1)
        x.grad = gradient(x_max, sigma, xi)
        adam.param_groups[0]["lr"] = lr
        adam.step()
        with torch.no_grad():
            delta = x - x_adv
            distance = delta.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            x.copy_((x_adv + delta * (purifier.rho_pur / distance).clamp(max=1)).clamp(0, 1))
    return x.detach()


def build_variants(args: argparse.Namespace, purifier: PurSAMERE) -> dict[str, Callable[[Tensor], Tensor]]:
    """Everything that is timed, by name; each maps images to purified images."""
    variants: dict[str, Callable[[Tensor], Tensor]] = {}
    for layout in LAYOUTS if args.layout == "both" else [args.layout]:
        eager = copy.deepcopy(purifier)
        eager.score_model.network.to(memory_format=LAYOUTS[layout])
        variants[f"lit_pursamere, {layout}"] = partial(run_plain_formulas, eager)
        if args.compile:
            compiled = copy.deepcopy(eager)
            compiled.score_model.network = torch.compile(compiled.score_model.network)
            variants[f"lit_pursamere, {layout}, compiled"] = compiled
    if args.kernels:
        if library() is None:
            sys.exit("the kernels are not there: python -m lit_pursamere.networks.build")
        variants[KERNELS] = copy.deepcopy(purifier)
    if args.baseline:
        variants[f"networks of {args.baseline}"] = build_baseline(args, purifier)
    variants[PLAIN] = partial(run_plain_formulas, build_plain_loop(purifier))
    return variants


def run_plain_formulas(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Without the kernels, whether they were built or not."""
    with patch.object(fused, "fast", lambda h: False):
        return run(x)


def build_baseline(args: argparse.Namespace, purifier: PurSAMERE) -> PurSAMERE:
    """The same purifier with NCSNv2 as its file was at another revision."""
    show = ["git", "show", f"{args.baseline}:lit_pursamere/networks/ncsnv2.py"]
    text = subprocess.run(show, check=True, capture_output=True, text=True).stdout
    before = ModuleType("ncsnv2_before")
    exec(compile(text, "ncsnv2_before", "exec"), vars(before))
    other = copy.deepcopy(purifier)
    network = before.NCSNv2(args.ngf, args.channels, args.image_size).to(memory_format=torch.channels_last)
    network.load_state_dict(purifier.score_model.network.state_dict())
    other.score_model.network = network.requires_grad_(False)
    return other


def build_own_convolutions(args: argparse.Namespace, purifier: PurSAMERE, device: torch.device) -> Callable[[], object]:
    """All convolutions of one evaluation of the network, forward and input gradient, on what they get there."""
    seen: list[tuple[nn.Conv2d, Tensor]] = []
    score_model = copy.deepcopy(purifier.score_model)
    parts = [module for module in score_model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [
        part.register_forward_hook(lambda conv, given, _: seen.append((conv, given[0].detach()))) for part in parts
    ]
    with torch.no_grad():
        shape = (args.batch * args.draws, args.channels, args.image_size, args.image_size)
        score_model.predict_noise(torch.rand(shape, device=device), 1.0)
    for hook in hooks:
        hook.remove()

    def run() -> None:
        for conv, h in seen:
            h = h.requires_grad_()
            out = conv(h)
            torch.autograd.grad(out, h, out.detach())

    return run


def build_plain_loop(purifier: PurSAMERE) -> Callable[[Tensor], Tensor]:
    score_model = copy.deepcopy(purifier.score_model).to(memory_format=torch.contiguous_format)
    score_model.requires_grad_(True)
    return lambda x: purify_plainly(score_model, purifier, x)


def build_convolutions(args: argparse.Namespace, device: torch.device) -> dict[str, tuple[Callable[[], object], float]]:
    """3x3 convolutions as the network has them, forward and input gradient: name -> (run, FLOP)."""
    batch, size, half = args.batch * args.draws, args.image_size, args.image_size // 2
    wide = 2 * args.ngf
    shapes = [(args.ngf, args.ngf, size, 1), (wide, args.ngf, half, 1), (wide, wide, half, 1), (wide, wide, half, 2)]
    convolutions = {}
    for inputs, outputs, pixels, dilation in shapes:
        for layout, memory_format in LAYOUTS.items():
            conv = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, device=device)
            conv.requires_grad_(False).to(memory_format=memory_format)
            h = torch.randn((batch, inputs, pixels, pixels), device=device)
            g = torch.randn((batch, outputs, pixels, pixels), device=device)
            if args.dtype == "bfloat16":
                conv, h, g = conv.bfloat16(), h.bfloat16(), g.bfloat16()
            h = h.contiguous(memory_format=memory_format).requires_grad_()
            g = g.contiguous(memory_format=memory_format)
            name = f"{inputs}->{outputs} at {pixels}x{pixels}, dilation {dilation}, {layout}"
            flop = 2 * 2 * 9 * inputs * outputs * batch * pixels**2
            convolutions[name] = (lambda conv=conv, h=h, g=g: torch.autograd.grad(conv(h), h, g), flop)
    return convolutions


@contextmanager
def precision(args: argparse.Namespace, device: torch.device, exact: bool = False) -> Iterator[None]:
    """The arithmetic that the arguments ask for; `exact`: plain float32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.tf32 and not exact
    with torch.autocast(device.type, torch.bfloat16, enabled=args.dtype == "bfloat16" and not exact):
        yield


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Time of one call, see CLOCK; on CUDA between two events, with an idle device before and after."""
    if device.type != "cuda":
        start = CLOCK()
        run()
        return CLOCK() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def measure(args: argparse.Namespace, purifier: PurSAMERE, x: Tensor, flop: float) -> tuple[dict, dict]:
    """Time variants and convolutions in turns; returns their rows by name."""
    device = x.device
    variants, convolutions = build_variants(args, purifier), build_convolutions(args, device)
    peaks, images = {}, {}
    with precision(args, device):
        for name, run in list(variants.items()):
            try:
                images[name] = run(x)
            except Exception as error:  # whatever the compiler raises; eager variants must not fail
                if not name.endswith("compiled"):
                    raise
                print(f"{name}: failed with {type(error).__name__}: {str(error).splitlines()[0]}")
                del variants[name]
        bursts = {name: max(1, round(0.05 / warm_seconds(run, device))) for name, (run, _) in convolutions.items()}
        own = build_own_convolutions(args, purifier, device)
        own()
        times: dict[str, list[float]] = {name: [] for name in (*variants, *convolutions, OWN)}
        for _ in range(args.repeats):
            for name, run in variants.items():
                reset_peak(device)
                times[name].append(seconds(lambda run=run: run(x), device))
                peaks[name] = peak_mib(device)
            for name, (run, _) in convolutions.items():
                burst = range(bursts[name])
                times[name].append(seconds(lambda run=run, burst=burst: [run() for _ in burst], device) / len(burst))
            times[OWN].append(seconds(own, device))
    conv_rows = {name: spread([work / t / 1e9 for t in times[name]]) for name, (_, work) in convolutions.items()}
    limit = max(row["median"] for row in conv_rows.values())
    evaluations = args.levels * (2 if purifier.rho_sam else 1)
    own_limit = len(x) / (evaluations * statistics.median(times[OWN]))
    rows = {name: spread([len(x) / t for t in times[name]]) | {"peak_mib": peaks[name]} for name in variants}
    with precision(args, device, exact=True):
        reduced = args.dtype != "float32" or args.tf32
        reference = build_plain_loop(purifier)(x) if reduced else images[PLAIN]
    for name, row in rows.items():
        gap = displacement_gap(images[name], reference, x)
        row["max_difference"] = (images[name] - reference).abs().max().item()
        row["gap_median"], row["gap_max"] = gap.median().item(), gap.max().item()
        row["gap_passed"] = (gap < FLOAT32_TOLERANCE).sum().item()
        row["gflop_per_s"] = row["median"] * flop / 1e9
        row["fraction_of_limit"] = row["gflop_per_s"] / limit
        row["fraction_of_own_convolutions"] = row["median"] / own_limit
        row["speed_up"] = row["median"] / rows[PLAIN]["median"]
    return rows, conv_rows


def warm_seconds(run: Callable[[], object], device: torch.device) -> float:
    run()
    return seconds(run, device)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):  # Linux: start the peak of the resident memory anew
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: torch.device) -> float:
    """Peak memory since `reset_peak`: allocated on CUDA, resident in the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def count_flop(args: argparse.Namespace, purifier: PurSAMERE, x: Tensor) -> dict[str, float]:
    """Count one real level, and work it out from the sizes of the convolutions: 2 m forwards and input gradients."""
    one_level, one_image = build_purifier(args, 1).to(x.device), x[:1]
    with FlopCounterMode(display=False) as counter:
        one_level(one_image)
    counted = counter.get_total_flops()
    forward = 0

    def add(conv: nn.Conv2d, _: object, out: Tensor) -> None:
        nonlocal forward
        forward += 2 * out.numel() * conv.weight[0].numel()

    convolutions = [module for module in one_level.modules() if isinstance(module, nn.Conv2d)]
    handles = [conv.register_forward_hook(add) for conv in convolutions]
    with torch.no_grad():
        one_level.score_model.predict_noise(one_image, 1.0)
    for handle in handles:
        handle.remove()
    formula = 2 * args.draws * 2 * forward  # an input gradient costs as much as its forward
    levels = len(purifier.sigmas)
    return {"forward": forward, "per_image": counted * levels, "per_image_by_formula": formula * levels}


def compare_in_float64(args: argparse.Namespace, x: Tensor) -> dict[str, float | bool]:
    """Compare the images of both loops where rounding cannot hide or fake a difference: one image, two levels."""
    purifier, x = build_purifier(args, min(args.levels, 2)).to(x.device, torch.float64), x[:1].double()
    ours, plain = purifier(x), build_plain_loop(purifier)(x)
    gap = displacement_gap(ours, plain, x).max().item()
    return {"max_difference": (ours - plain).abs().max().item(), "gap": gap, "passed": gap < FLOAT64_TOLERANCE}


def displacement_gap(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """||a - b|| / ||b - x|| of every image."""
    return (a - b).flatten(1).norm(dim=1) / (b - x).flatten(1).norm(dim=1)


def project_hours(args: argparse.Namespace, rows: dict) -> dict[str, dict[str, float]]:
    """Hours of the paper's jobs at the measured speed, per variant."""
    share = args.levels * args.draws / (PAPER_LEVELS * PAPER_DRAWS)
    return {
        name: {job: count / (row["median"] * share) / 3600 for job, count in PAPER_JOBS.items()}
        for name, row in rows.items()
    }


def describe_machine(device: torch.device) -> dict[str, str | int | float]:
    cpu = f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def print_report(report: dict) -> None:
    args, machine, flop, float64 = (report[key] for key in ("arguments", "machine", "flop", "float64"))
    print("{device}; torch {torch}, {threads} threads; load average before the run {load_before}".format(**machine))
    print("{network} ngf {ngf}, {batch} images {image_size}x{image_size}x{channels}, ".format(**args), end="")
    print("{levels} levels x {draws} draws, {dtype}, TF32 {tf32}; median of {repeats} repeats\n".format(**args))
    print_variants(report["variants"])
    print_convolutions(report["convolutions"])
    print("\nFLOP per image: {per_image:.6g} counted, {per_image_by_formula:.6g} by the formula".format(**flop), end="")
    print("; one forward {forward:.4g}".format(**flop))
    print("same algorithm, float64: max abs difference {max_difference:.1e}, gap {gap:.1e}".format(**float64), end="")
    print(f" (< {FLOAT64_TOLERANCE:g}: {'yes' if float64['passed'] else 'NO'})")
    reduced = args["dtype"] != "float32" or args["tf32"]
    for name, row in report["variants"].items():
        if name == PLAIN and not reduced:
            continue
        print(
            f"{name}, against the plain loop in float32: max abs difference {row['max_difference']:.1e}, "
            f"gap {row['gap_median']:.1e} (max {row['gap_max']:.1e}), "
            f"{row['gap_passed']} of {args['batch']} images < {FLOAT32_TOLERANCE:g}"
        )
    print("gap: length of the difference of two purified images / length of the displacement")
    for name, hours in report.get("paper_hours", {}).items():
        print(f"\nProjected hours on this device, {name}, at {PAPER_LEVELS} levels x {PAPER_DRAWS} draws")
        for job, value in hours.items():
            print(f"  {job:56} {value:12,.1f}")


def print_variants(rows: dict) -> None:
    print(f"{'variant':38} {'images/s (min to max)':>27} {'GFLOP/s':>9}  of limit  of its own  speed-up  peak MiB")
    for name, row in rows.items():
        rate = f"{row['median']:.3g} ({row['min']:.3g} to {row['max']:.3g})"
        columns = f"{row['gflop_per_s']:9.1f} {row['fraction_of_limit']:9.0%}"
        columns += f" {row['fraction_of_own_convolutions']:11.0%} {row['speed_up']:8.2f}x"
        print(f"{name:38} {rate:>27} {columns} {row['peak_mib']:9.0f}")


def print_convolutions(rows: dict) -> None:
    print(f"\n{'3x3 convolution and its input gradient':50} {'GFLOP/s (min to max)':>27}")
    limit = max(row["median"] for row in rows.values())
    for name, row in rows.items():
        rate = f"{row['median']:.1f} ({row['min']:.1f} to {row['max']:.1f})"
        print(f"{name:50} {rate:>27}{'  = limit' if row['median'] == limit else ''}")


def print_profile(args: argparse.Namespace, purifier: PurSAMERE, x: Tensor) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if x.is_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with precision(args, x.device), torch.profiler.profile(activities=activities) as profile:
        purifier(x)
    key = "self_device_time_total" if x.is_cuda else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events)
    print(f"\nself time of {'device' if x.is_cuda else 'CPU'} operators, one purification of {total / 1e6:.2f} s")
    for event in events[:12]:
        print(f"  {event.key[:56]:56} {getattr(event, key) / total:6.1%} {event.count:6d} calls")


if __name__ == "__main__":
    main()
