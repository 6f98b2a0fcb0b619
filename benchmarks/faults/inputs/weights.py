"""Weight files and checkpoints: damaged, hostile, of another network."""

# ruff: noqa: E501 (a row is a line)

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.faults.spoil import (
    Setup,
    both,
    copied,
    cut,
    flipped,
    folder,
    pickled,
    removed,
    saved,
    tensors,
    text,
    zipped,
)

TEST = "TEST --model.classifier.checkpoint"
NET = "checkpoints/digits/classifier.safetensors"


NEW = "FIT --ckpt_path bad.ckpt --model.export new.safetensors --trainer.default_root_dir new"


def changed(**entries: Any) -> Setup:
    """The checkpoint with other entries; `...` leaves one out."""

    def setup(place: Path) -> None:
        content = torch.load(place / "last.ckpt", weights_only=True) | entries
        torch.save({name: value for name, value in content.items() if value is not ...}, place / "bad.ckpt")

    return setup


def header(content: str, size: int | None = None) -> bytes:
    """The beginning of a safetensors file."""
    return struct.pack("<Q", len(content) if size is None else size) + content.encode()


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple:
        import os

        return os.system, ("touch PWNED",)


def holes(state: dict) -> None:
    next(value for value in state.values() if value.is_floating_point()).view(-1)[0] = float("nan")


def first_renamed(state: dict) -> dict:
    return {("other" if number == 0 else name): value for number, (name, value) in enumerate(state.items())}


ROWS = [
    # files that are no weights
    ("WEIGHTS", "net.safetensors", text("net.safetensors", "")),
    ("WEIGHTS", "net.safetensors", text("net.safetensors", "hello")),
    ("WEIGHTS", "net.safetensors", cut("net.safetensors", 100)),
    ("WEIGHTS", "net.safetensors", cut("net.safetensors", -10)),
    ("WEIGHTS", "net.safetensors", folder("net.safetensors")),
    ("WEIGHTS", "net.safetensors", text("net.safetensors", header("{", 2**62))),
    ("WEIGHTS", "net.safetensors", text("net.safetensors", header("{}"))),
    ("WEIGHTS", "net.safetensors", text("net.safetensors", header("[]"))),
    ("WEIGHTS", "net.safetensors", text("net.safetensors", header("{\"a\": 5}"))),
    ("WEIGHTS", "net.safetensors", text("net.safetensors", header("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,4]}}") + b"1234")),
    ("WEIGHTS", "net.safetensors", text("net.safetensors", header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1000000000000],\"data_offsets\":[0,4]}}") + b"1234")),
    ("WEIGHTS", "net.safetensors", text("net.safetensors", header("{\"a\":{\"dtype\":\"X9\",\"shape\":[1],\"data_offsets\":[0,4]}}") + b"1234")),
    ("weights inspect photos/a.png", "a.png"),
    ("weights inspect test.yaml", "test.yaml"),
    ("weights inspect small.npz", "small.npz"),
    ("weights inspect bad.pth", "bad.pth", text("bad.pth", "")),
    ("weights inspect bad.pth", "bad.pth", text("bad.pth", b"\x80")),
    ("weights inspect bad.pth", "bad.pth", text("bad.pth", b"\x80\x02.")),
    ("weights inspect bad.pth", "bad.pth", text("bad.pth", b"PK\x03\x04")),
    ("weights inspect bad.pth", "bad.pth", zipped("bad.pth", readme=b"hello")),
    ("weights inspect bad.pth", "bad.pth", zipped("bad.pth", archive__data_pkl=b"\x80\x02.")),
    ("weights inspect bad.pth", "bad.pth", saved("bad.pth", lambda: 5)),
    ("weights inspect bad.pth", "bad.pth", saved("bad.pth", lambda: {})),
    ("weights inspect bad.pth", "bad.pth", saved("bad.pth", lambda: {"a": "no tensor"})),
    ("weights inspect bad.pth", "bad.pth", saved("bad.pth", lambda: [torch.ones(2)])),
    # hostile
    ("weights inspect bad.pth", "bad.pth", pickled("bad.pth", pickle.dumps(Runs()))),
    ("weights inspect bad.pth", "bad.pth", saved("bad.pth", Runs)),
    ("weights inspect bad.pth", "bad.pth", saved("bad.pth", lambda: {"state_dict": {"a": torch.ones(2)}, "x": Runs()})),
    ("weights inspect bad.pkl", "bad.pkl", pickled("bad.pkl", b"\x80\x04" + b"(" * 1_000_000 + b".")),
    ("weights inspect bad.pkl", "bad.pkl", pickled("bad.pkl", b"\x80\x04" + b"]" + b"2a" * 500_000 + b".")),
    ("weights inspect bad.pkl", "bad.pkl", pickled("bad.pkl", b"cbuiltins\nbytearray\n(I2000000000\ntR.")),
    ("weights inspect bad.pkl", "bad.pkl", pickled("bad.pkl", b"cnumpy\nzeros\n(I2000000000\ntR.")),
    ("weights inspect bad.pkl", "bad.pkl", pickled("bad.pkl", b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.")),
    ("weights inspect bad.pkl", "bad.pkl", pickled("bad.pkl", b"\x80\x04r" + struct.pack("<I", 2**31) + b".")),
    ("weights inspect bad.pkl", "bad.pkl", pickled("bad.pkl", b"L" + b"9" * 300_000 + b"L\n.")),
    ("FIT --ckpt_path bad.ckpt", "bad.ckpt", saved("bad.ckpt", Runs)),
    ("FIT --ckpt_path bad.ckpt --weights_only false", "weights_only", saved("bad.ckpt", Runs)),
    ("FIT --ckpt_path bad.ckpt", "bad.ckpt", saved("bad.ckpt", Runs), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"),
    ("VALIDATE --ckpt_path bad.ckpt --weights_only false", "weights_only", saved("bad.ckpt", Runs)),
    ("TEST --ckpt_path bad.ckpt --weights_only false", "weights_only", saved("bad.ckpt", Runs)),
    ("PREDICT --ckpt_path bad.ckpt --weights_only false", "weights_only", saved("bad.ckpt", Runs)),
    ("FIT", "last.ckpt", both(copied("last.ckpt", "logs/checkpoints/x.ckpt"), saved("logs/checkpoints/last.ckpt", Runs))),
    (f"{TEST} bad.pth", "bad.pth", saved("bad.pth", Runs)),
    # checkpoints of Lightning
    ("FIT --ckpt_path bad.ckpt", "bad.ckpt", saved("bad.ckpt", dict)),
    ("FIT --ckpt_path bad.ckpt", "bad.ckpt", saved("bad.ckpt", lambda: 7)),
    ("FIT --ckpt_path bad.ckpt", "bad.ckpt", saved("bad.ckpt", lambda: {"state_dict": {}})),
    ("FIT --ckpt_path bad.ckpt", "bad.ckpt", saved("bad.ckpt", lambda: {"state_dict": 5, "pytorch-lightning_version": "x"})),
    *((NEW, "bad.ckpt", changed(**entry)) for entry in ({"loops": ...}, {"loops": 5}, {"optimizer_states": ...}, {"optimizer_states": [5]}, {"callbacks": 5}, {"card": 5}, {"configuration": 5}, {"lr_schedulers": ...}, {"epoch": "x"}, {"state_dict": {"a": 5}})),
    ("FIT --ckpt_path net.safetensors", "net.safetensors"),
    ("FIT --ckpt_path bad.ckpt", "bad.ckpt", both(copied("last.ckpt", "bad.ckpt"), cut("bad.ckpt", 3000))),
    ("FIT --ckpt_path bad.ckpt", "bad.ckpt", both(copied("last.ckpt", "bad.ckpt"), flipped("bad.ckpt", 0))),
    ("SCORE --ckpt_path last.ckpt", "last.ckpt|checkpoint"),
    ("FIT --ckpt_path last.ckpt --model.classifier.width 2", "width|checkpoint|size"),
    ("FIT --ckpt_path best", "best"),
    ("FIT --ckpt_path hpc", "hpc"),
    ("FIT --ckpt_path registry", "registry"),
    # of another network
    (f"{TEST} net.safetensors", "net.safetensors|shape|size"),
    (f"{TEST} checkpoints/digits/score.safetensors", "score.safetensors"),
    (f"{TEST} bad.safetensors", "bad.safetensors", tensors("bad.safetensors", holes, NET)),
    (f"{TEST} bad.safetensors", "bad.safetensors", tensors("bad.safetensors", first_renamed, NET)),
    (f"{TEST} bad.safetensors", "bad.safetensors", tensors("bad.safetensors", lambda s: s.popitem() and None, NET)),
    (f"{TEST} bad.safetensors", "bad.safetensors", tensors("bad.safetensors", lambda s: s.update(surplus=torch.ones(3)), NET)),
    (f"{TEST} bad.safetensors", "bad.safetensors", tensors("bad.safetensors", lambda s: {k: v.flatten() for k, v in s.items()}, NET)),
    (f"{TEST} bad.safetensors", "bad.safetensors", tensors("bad.safetensors", lambda s: {k: v.to(torch.int64) for k, v in s.items()}, NET)),
    (f"{TEST} bad.safetensors", "bad.safetensors|mean", tensors("bad.safetensors", lambda s: s.update(mean=torch.ones(1, 1, 1, 1), std=torch.ones(1, 1, 1, 1)), NET)),
    (f"{TEST} bad.safetensors", "bad.safetensors", both(copied(NET, "bad.safetensors"), cut("bad.safetensors", 5000))),
    ("TEST --model.score_model.checkpoint checkpoints/digits/classifier.safetensors", "classifier.safetensors"),
    ("TEST --model.score_model.checkpoint checkpoints/mnist/denoiser.safetensors", "denoiser.safetensors"),
    # conversion
    ("weights convert bad.pth out.safetensors", "bad.pth", saved("bad.pth", lambda: {"a": torch.ones(2).to_sparse()})),
    ("weights convert bad.pth out.safetensors", "bad.pth|__metadata__", saved("bad.pth", lambda: {"__metadata__": torch.ones(2), "a": torch.ones(2)})),
    ("weights convert bad.pth out.safetensors --dtype float16", "float16|1e", saved("bad.pth", lambda: {"a": torch.full((2,), 1e30)})),
    ("weights convert bad.pth out.safetensors", "bad.pth", saved("bad.pth", lambda: {"a": torch.ones(4).to(torch.float8_e8m0fnu)})),
    ("weights convert bad.pth out.safetensors", "bad.pth", pickled("bad.pth", pickle.dumps(Runs()))),
    ("weights convert bad.pth out.safetensors", "bad.pth", saved("bad.pth", lambda: {"a": np.array([{}], dtype=object)})),
    ("weights convert bad.pth out.safetensors", "net, teacher", saved("bad.pth", lambda: {"net": {"a": torch.ones(2)}, "teacher": {"a": torch.zeros(2)}})),
    # diffusers
    ("weights inspect bad", "bad", folder("bad")),
    ("weights inspect bad", "config.json|weights", both(folder("bad"), text("bad/config.json", "{}"))),
    ("weights inspect bad", "config.json", both(folder("bad"), text("bad/config.json", "{"), copied("net.safetensors", "bad/diffusion_pytorch_model.safetensors"))),
    ("weights inspect bad", "bad", both(folder("bad"), text("bad/model_index.json", "[1]"))),
    ("weights inspect bad/x.pth", "x.pth", removed("nothing")),
]  # fmt: skip
