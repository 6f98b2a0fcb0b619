"""Every start leaves a line: when, how, with what."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
import torch

from lit_pursamere.store import provenance
from lit_pursamere.store.provenance import note_start, package_versions


def test_a_line_per_start(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/lit_pursamere/__main__.py", "test", "--config", "my file.yaml"])
    note_start(tmp_path, torch.device("cpu"))
    note_start(tmp_path, torch.device("cpu"), processes=4)
    lines = [json.loads(line) for line in (tmp_path / "environment.jsonl").read_text().splitlines()]
    assert [line["processes"] for line in lines] == [1, 4]
    line = lines[0]
    assert line["command"] == "lit-pursamere test --config 'my file.yaml'"
    assert set(line["versions"]) >= {"python", "torch", "torchvision", "pytorch-lightning", "lit_pursamere"}
    assert line["device"].startswith("cpu: ") and line["cores"] >= 1 and line["threads"] >= 1
    assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0


def test_what_a_killed_process_left_is_ended_and_not_cut_off(tmp_path):
    """Others may be appending to that file."""
    (tmp_path / "environment.jsonl").write_text('{"a": 1}\n{"b')
    note_start(tmp_path, torch.device("cpu"))
    lines = (tmp_path / "environment.jsonl").read_text().splitlines()
    assert lines[:2] == ['{"a": 1}', '{"b'] and json.loads(lines[2])["processes"] == 1


def test_what_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*environment\.jsonl"):
        note_start(tmp_path / "none", torch.device("cpu"))


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package-anywhere"))
    assert set(package_versions()) == {"lit_pursamere", "torch"}
