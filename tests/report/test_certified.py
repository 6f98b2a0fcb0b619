"""Certified accuracy over the radius, from rows that are known."""

from __future__ import annotations

import csv
import io
import json

import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.report.certified import Attacked, attacked_of, radii_of, read_certified
from lit_pursamere.report.certified_figure import certified_figure
from lit_pursamere.report.certified_table import as_csv, as_markdown
from lit_pursamere.report.runs import read_runs
from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.store.manifest import run_of, write_manifest

IMAGES = {"count": 4, "shape": [1, 8, 8], "digest": "d", "indices": "i"}
MANIFEST = {
    "data": "digits, test images", "images": IMAGES, "seed": 0, "weights": "w",
    "certification": {"sigmas": [0.25, 0.5], "n0": 10, "n": 100, "alpha": 0.001},
}  # fmt: skip
SMOOTHED = {"purifier": {"class": "DenoisedSmoothing", "sigma": 0.25}}
TEST = {
    "data": "digits, test images", "images": IMAGES, "seed": 0, "weights": {"DenoisedSmoothing": "w"}, "evaluations": 1,
    "systems": {"DenoisedSmoothing": "DenoisedSmoothing(sigma=0.25)"}, "defenses": {"DenoisedSmoothing": SMOOTHED},
    "attacks": {name: {"class": "PGD", "view": "exact", "threat": {"norm": norm, "eps": eps}}
                for name, norm, eps in (("weak", "l2", 0.3), ("strong", "l2", 0.3), ("other", "linf", 0.1))},
    "success": "last",
}  # fmt: skip


def certificate(index, radius, selected=1, sigma=0.25, prediction=1):
    return {"dataset": "digits", "sigma": sigma, "index": index, "label": 1, "selected": selected, "count": 90,
            "lower": 0.8, "radius": radius, "prediction": prediction, "seconds": 1.0, "seed": 0}  # fmt: skip


ROWS = [certificate(0, 0.31), certificate(1, 0.1), certificate(2, None, prediction=-1), certificate(3, 0.6, selected=2)]


def written(folder, rows=ROWS, manifest=MANIFEST, name="certificates-0.jsonl"):
    folder.mkdir()
    write_manifest(folder, manifest)
    lines = [json.dumps({**row, "run": run_of(manifest)}) + "\n" for row in rows]
    (folder / name).write_text("".join(lines))
    return folder


def attacked(folder, right):
    """A test in which so many of the four images stay right under each attack."""
    rows = []
    for attack, votes in right.items():
        for index in range(4):
            won = int(index < votes)
            rows.append({
                "dataset": "digits", "system": "DenoisedSmoothing", "attack": attack, "index": index, "label": 1,
                "evaluations": 1, "votes_last": won, "votes_any": None, "prediction_clean": 1, "prediction_last": won,
                "prediction_any": None, "seconds": 0.1,
            })  # fmt: skip
    return written(folder, rows, TEST, "records-0.jsonl")


def test_what_counts_as_certified(tmp_path):
    run = read_certified(written(tmp_path / "run"))
    assert [run.accuracy(0.25, radius).correct for radius in (0.0, 0.1, 0.11, 0.31, 0.32)] == [2, 2, 1, 1, 0]
    assert run.clean(0.25).correct == 3 and run.abstained(0.25) == 1  # a wrong class is no certificate of the right one
    assert run.mean_radius(0.25) == pytest.approx(0.41 / 4) and run.sigmas == [0.25]
    assert radii_of([run], []) == pytest.approx([0.05 * k for k in range(7)])
    table = as_markdown([run])
    assert "incomplete: 4 certificates are still to come" in table
    rows = list(csv.DictReader(io.StringIO(as_csv([run]))))
    assert {(row["kind"], row["radius"], row["correct"]) for row in rows} >= {
        ("clean", "0", "3"), ("abstained", "0", "1"), ("certified", "0.31", "1"), ("certified", "0.6", "0"),
    }  # fmt: skip


def test_attacks_stand_beside_and_below_the_floor_is_told(tmp_path, capsys):
    run = written(tmp_path / "run")
    beaten = attacked(tmp_path / "beaten", {"clean": 3, "weak": 2, "strong": 0, "other": 4})
    (one,) = attacked_of([beaten])
    assert one.sigma == 0.25 and {eps: found.correct for eps, found in one.points.items()} == {0.0: 3, 0.3: 0}
    assert main(["report", str(run), str(beaten), "--output", str(tmp_path / "both")]) == 0
    out = capsys.readouterr().out
    assert "attacked: DenoisedSmoothing, sigma 0.25" in out
    assert "beaten: at 0.3 attacks leave 0.0 [0.0, 49.0] %, below the 25.0" in out
    assert (tmp_path / "both/certified.png").stat().st_size > 5000
    lost = attacked(tmp_path / "lost", {"clean": 3, "weak": 2, "strong": 1, "other": 4})
    assert main(["report", str(run), str(lost)]) == 0
    assert "below the" not in capsys.readouterr().out


def test_the_curve_falls_where_a_radius_ends(tmp_path):
    run = read_certified(written(tmp_path / "run"))
    other = Attacked(read_runs([attacked(tmp_path / "t", {"clean": 3})])[0], "s", None, {0.2: Accuracy(1, 4)})
    figure = certified_figure([run], [other])
    (curve, _) = [line for line in figure.axes[0].lines if len(line.get_xdata())][:2]
    points = list(zip(curve.get_xdata(), curve.get_ydata(), strict=True))
    assert points == [(0.0, 50.0), (0.1, 50.0), (0.31, 25.0), (0.31, 0.0)]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"radius": "wide"}, "radius: 'wide'"),
        ({"sigma": 0.3}, "a row that its manifest does not state: sigma 0.3"),
        ({"count": 101}, "count 101"),
        ({"prediction": -2}, "prediction: -2"),
    ],
)
def test_damage_is_named(change, line, tmp_path, capsys):
    written(tmp_path / "run", [{**ROWS[0], **change}, ROWS[1]])
    assert main(["report", str(tmp_path / "run")]) == 1
    assert line in capsys.readouterr().err


def test_what_does_not_go_together_is_one_line(tmp_path, capsys):
    run = written(tmp_path / "run")
    assert main(["report", str(run), "--format", "html"]) == 1
    assert "certificates are shown as markdown or csv; got --format html" in capsys.readouterr().err
    manifest = {**TEST, "attacks": {"other": TEST["attacks"]["other"]}}
    rows = [{"system": "DenoisedSmoothing", "attack": "clean", "index": 0, "label": 1, "evaluations": 1,
             "votes_last": 1, "prediction_clean": 1, "prediction_last": 1, "dataset": "digits"}]  # fmt: skip
    linf = written(tmp_path / "linf", rows, manifest, "records-0.jsonl")
    assert main(["report", str(run), str(linf)]) == 1
    assert "has no attack in l2" in capsys.readouterr().err


def test_runs_lists_certifications(tmp_path, capsys):
    written(tmp_path / "certified")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text("{")
    (tmp_path / "torn" / "certificates-0.jsonl").write_text("{}\n")
    main(["runs", str(tmp_path)])
    told = capsys.readouterr()
    row = next(line for line in told.out.splitlines() if "test images" in line)
    for cell in ("digits, test images", "certify, sigma 0.25", "4", "50.0 [15.0, 85.0] (certified)"):
        assert cell in row, cell
    assert "4 certificates missing" in row  # those at sigma 0.5
    assert "unreadable" in told.out
