"""Tells from names and shapes which network a set of weights belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["recognise"]

Shapes = Mapping[str, tuple[int, ...]]


def recognise(tensors: Mapping[str, Tensor]) -> str:
    """Name the architecture, with the figures that its shapes tell.

    Args:
        tensors: Tensors by name, under whatever prefix.

    Returns:
        `NCSNv2 ngf 128, 3 channels` or the like; several joined by `and`; `unknown`.
    """
    found = []
    for anchor, describe in ARCHITECTURES.items():
        prefixes = {n[: -len(anchor)] for n in tensors if n == anchor or n.endswith(f".{anchor}")}
        for prefix in sorted(prefixes)[:8]:
            shapes = {n[len(prefix) :]: tuple(t.shape) for n, t in tensors.items() if n.startswith(prefix)}
            try:
                found.append(describe(shapes))
            except (KeyError, IndexError, ValueError, ZeroDivisionError):  # one name agrees and the others do not
                continue
    return " and ".join(dict.fromkeys(filter(None, found))) or "unknown"


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbers stand in the pattern's place, from 0 without a gap."""
    seen = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    return next(n for n in range(len(seen) + 1) if n not in seen)


def _some(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _ncsnv2(shapes: Shapes) -> str:
    ngf, channels = shapes["begin_conv.weight"][:2]
    kind = "NCSNv2Deepest" if "res31.0.conv1.weight" in shapes else "NCSNv2"
    kind = "NCSNv2Deeper" if "res5.0.conv1.weight" in shapes and kind == "NCSNv2" else kind
    return f"{kind} ngf {ngf}, {_some(channels, 'channel')}"


def _ddpmpp(shapes: Shapes) -> str:
    nf, channels = shapes["all_modules.2.weight"][:2]
    first = next((n for n in range(3, 100) if f"all_modules.{n}.Conv_2.weight" in shapes), None)
    # The blocks of the first resolution keep its width; the first one with a shortcut convolution halves the size.
    plain = [n for n in range(3, first or 0) if f"all_modules.{n}.Conv_0.weight" in shapes]
    blocks = f"{_some(len(plain), 'block')} per resolution, " if plain else ""
    return f"DDPM++ nf {nf}, {blocks}{_some(channels, 'channel')}"


def _songunet(shapes: Shapes) -> str:
    width = shapes["map_layer0.weight"][1]
    first = max(int(m[1]) for name in shapes if (m := re.match(r"enc\.(\d+)x\d+_", name)))
    channels = shapes[f"enc.{first}x{first}_conv.weight"][1]
    blocks = _count(shapes, rf"enc\.{first}x{first}_block(\d+)\.")
    return f"SongUNet {width} channels wide, {_some(blocks, 'block')} per resolution, {first}x{first}x{channels}"


def _unet2d(shapes: Shapes) -> str:
    levels = _count(shapes, r"down_blocks\.(\d+)\.")
    widths = [shapes[f"down_blocks.{n}.resnets.0.conv1.weight"][0] for n in range(levels)]
    layers = _count(shapes, r"down_blocks\.0\.resnets\.(\d+)\.")
    channels = shapes["conv_in.weight"][1]
    return f"UNet2DModel {'-'.join(map(str, widths))}, {_some(layers, 'layer')} per block, {_some(channels, 'channel')}"


def _denoising_autoencoder(shapes: Shapes) -> str:
    width, channels = shapes["down1.weight"][:2]
    fits = shapes["up2.weight"][:2] == (2 * width, width) and shapes["pixels.weight"][:2] == (channels, width)
    return f"DenoisingAutoencoder width {width}, {_some(channels, 'channel')}" if fits else ""


def _magnet(shapes: Shapes) -> str:
    width, channels = shapes["convs.0.weight"][:2]
    count = _count(shapes, r"convs\.(\d+)\.")
    if count not in (3, 5) or shapes[f"convs.{count - 1}.weight"][:2] != (channels, width):
        return ""
    kind = "with" if count == 5 else "without"
    return f"MagNetAutoencoder width {width}, {kind} pooling, {_some(channels, 'channel')}"


def _ffdnet(shapes: Shapes) -> str:
    """Many networks have a layer 0; this one has convolutions at even places, from 4 C + 1 channels to 4 C."""
    width, inputs = shapes["0.weight"][:2]
    depth = sum(f"{place}.weight" in shapes for place in range(0, 100, 2))
    outputs = shapes[f"{2 * (depth - 1)}.weight"][0]
    fits = inputs == outputs + 1 and outputs % 4 == 0 and len(shapes) == 2 * depth
    return f"FFDNet width {width}, {_some(depth, 'convolution')}, {_some(outputs // 4, 'channel')}" if fits else ""


def _guided(shapes: Shapes) -> str:
    width, channels = shapes["input_blocks.0.0.weight"][:2]
    learned = "with" if shapes["out.2.weight"][0] == 2 * channels else "without"
    return f"guided-diffusion's U-Net, {width} channels wide, {learned} variance, {_some(channels, 'channel')}"


def _dm_wide_resnet(shapes: Shapes) -> str:
    blocks = _count(shapes, r"layer\.0\.block\.(\d+)\.")
    width = shapes["layer.0.block.0.conv_0.weight"][0] / shapes["init_conv.weight"][0]
    return f"WRN-{6 * blocks + 4}-{width:g} (DeepMind's, SiLU), {shapes['logits.weight'][0]} classes"


def _resnet(shapes: Shapes) -> str:
    """ResNets for CIFAR: by their stages and blocks; VNN-COMP's have no normalisation and two linear layers."""
    if "linear1.weight" in shapes and "layer2.1.conv2.bias" in shapes and "bn1.weight" not in shapes:
        return f"ResNet-4B (VNN-COMP), {shapes['linear2.weight'][0]} classes"
    if "layer1.0.bn1.weight" not in shapes or "conv1.bias" in shapes:
        return ""
    stages = [_count(shapes, rf"layer{n}\.(\d+)\.conv2\.weight") for n in (1, 2, 3, 4)]
    classes = shapes["linear.weight"][0]
    if stages[3] == 0 and stages[0] == stages[1] == stages[2] and "layer2.0.shortcut.0.weight" not in shapes:
        return f"ResNet-{6 * stages[0] + 2} of CIFAR, {classes} classes"
    return f"ResNet-18 for small images, {classes} classes" if stages == [2, 2, 2, 2] else ""


def _mnist_cnn(shapes: Shapes) -> str:
    kernel, hidden = shapes["conv1.weight"][-1], "linear1.weight" if "linear1.weight" in shapes else "fc1.weight"
    known = {(3, "linear1.weight", 200): "LeNet5 of AdverTorch", (5, "fc1.weight", 1024): "Madry's CNN"}
    name = known.get((kernel, hidden, shapes[hidden][0]), "") if len(shapes) == 8 else ""
    return f"{name}, {_some(shapes['conv1.weight'][1], 'channel')}" if name else ""


def _wide_resnet(shapes: Shapes, stage: str, last: str, naming: str) -> str:
    blocks = _count(shapes, rf"{re.escape(stage)}(\d+)\.")
    width = shapes[f"{stage}0.conv1.weight"][0] / shapes["conv1.weight"][0]
    return f"WRN-{6 * blocks + 4}-{width:g} ({naming} naming), {shapes[last][0]} classes"


def _robustbench(shapes: Shapes) -> str:
    return _wide_resnet(shapes, "block1.layer.", "fc.weight", "RobustBench")


def _adp(shapes: Shapes) -> str:
    """A ResNet has these names too, but four stages, or two, and no bias in its convolutions, or two linear layers."""
    if {"layer4.0.conv1.weight", "linear1.weight"} & shapes.keys() or "layer1.0.conv1.bias" not in shapes:
        return ""
    return _wide_resnet(shapes, "layer1.", "linear.weight", "ADP")


ARCHITECTURES = {
    "begin_conv.weight": _ncsnv2,
    "all_modules.3.GroupNorm_0.weight": _ddpmpp,
    "map_layer0.weight": _songunet,
    "down_blocks.0.resnets.0.conv1.weight": _unet2d,
    "down1.weight": _denoising_autoencoder,
    "convs.0.weight": _magnet,
    "0.weight": _ffdnet,
    "block1.layer.0.conv1.weight": _robustbench,
    "layer1.0.conv1.weight": lambda shapes: _adp(shapes) or _resnet(shapes),
    "layer.0.block.0.conv_0.weight": _dm_wide_resnet,
    "input_blocks.0.0.weight": _guided,
    "conv2.weight": _mnist_cnn,
}
