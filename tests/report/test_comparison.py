"""Comparisons of runs made by hand: rows, columns, what is missing, what differs, and what does not compare."""

from __future__ import annotations

import csv
import io
import json

import pytest

from lit_pursamere.report import as_csv, as_latex, as_markdown, read_comparison
from lit_pursamere.report.accuracy_figures import comparison_figure
from lit_pursamere.report.saving import save_comparison
from lit_pursamere.store.costs import Asked, Cost, write_cost

NAMES = ("PurSAMERE", "DiffPure ODE", "plain", "late")


def cost(**changes):
    networks = {"score_model": Asked("NCSNv2Score", True, 100.0, 0.0)}
    values = {
        "purifier": "X()", "weights": "ab", "networks": networks, "images": 4, "seconds": 0.25, "deterministic": True,
        "device": "cpu: abacus", "threads": 1, "time": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Cost(**values | changes)


@pytest.fixture
def output(rows, pgd, write_run, tmp_path):
    """Three purifiers under three attacks on four images; the second lacks verdicts, and `late` has no run."""
    attacks = {"gPGD20": pgd(view="gray"), "BPDA20": pgd(), "exact20": pgd(view="exact")}

    def records(system, clean, gray, bpda, exact):
        return [
            *rows(system, "clean", clean),
            *rows(system, "gPGD20", gray),
            *rows(system, "BPDA20", bpda, bpda),
            *rows(system, "exact20", exact, exact),
        ]

    write_run("PurSAMERE", records("PurSAMERE", "++++", "+++-", "++-+", "+-++"), attacks, slots=4)
    many = attacks | {"exact20": attacks["exact20"] | {"eot": 4}}
    # Four verdicts per image, as of a stochastic purifier.
    diffpure = [row | {"evaluations": 4} for row in records("DiffPure", "4444", "4321", "44", "4")]
    purifier = {"class": "DiffPure", "sampler": "ode", "t_star": 0.1, "noise": "fresh"}
    write_run("DiffPure ODE", diffpure, many, evaluations=4, slots=8, defenses={"DiffPure": {"purifier": purifier}})
    write_run("plain", records("Identity", "++++", "----", "----", "----"), attacks, slots=4)
    write_cost(tmp_path / "PurSAMERE", cost(networks={"score_model": Asked("NCSNv2Score", True, 52.0, 52.0)}))
    asked = {"score_model": Asked("NCSNv2Score", True, 19.5, 0.0), "classifier": Asked("WideResNet", False, 5.0, 5.0)}
    write_cost(tmp_path / "DiffPure ODE", cost(networks=asked, deterministic=False, device="cuda: loom"))
    return tmp_path


def table(output, names=NAMES, elsewhere=False):
    """Head and rows of the Markdown table, and what stands below it."""
    lines = as_markdown(read_comparison(output, names, elsewhere)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return cells[0], [dict(zip(cells[0], row, strict=True)) for row in cells[2:]], "\n".join(lines[len(cells) :])


def test_rows_and_columns(output):
    head, found, _ = table(output)
    assert head == ["purifier", "clean", "gPGD20", "BPDA20", "exact20", "worst case", "network calls", "s/image",
                    "deterministic"]  # fmt: skip
    assert [row["purifier"] for row in found] == ["plain", "PurSAMERE", "DiffPure ODE (5 verdicts missing)"]
    assert found[1]["clean"] == "100.0 [51.0, 100.0]" and found[1]["gPGD20"] == "75.0"
    assert found[1]["worst case"] == "25.0 [4.6, 69.9]"
    assert found[0]["worst case"].startswith("0.0 [")
    assert (
        found[2]["gPGD20"] == "62.5" and found[2]["BPDA20"] == "100.0, n = 2" and found[2]["exact20"] == "100.0, n = 1"
    )
    assert found[2]["worst case"].endswith(", n = 1")


def test_costs(output):
    _, found, notes = table(output)
    assert [row["network calls"] for row in found] == ["", "52 + 52", "19.5 [5 + 5]"]
    assert [row["deterministic"] for row in found] == ["", "yes", "no"] and found[1]["s/image"] == "0.25"
    assert "measured on cpu: abacus, threads 1, batches of 4, but cuda: loom" in notes


def test_notes_say_in_what_rows_differ_and_what_is_missing(output):
    notes = read_comparison(output, NAMES).notes
    assert "digits, test images, n = 4" in notes[0] and "verdicts per image 1, but 4 for DiffPure ODE" in notes[0]
    assert notes[1] == "Attacks: linf 0.15; exact20: eot 1, but 4 for DiffPure ODE."
    assert "Incomplete: DiffPure ODE lacks 5 verdicts (BPDA20: 2, exact20: 3)." in notes
    assert "Not evaluated yet: late." in notes and "The same `compare` command completes them." in notes


def test_a_run_without_a_configuration_says_nothing_of_its_networks(output):
    (output / "plain/config.yaml").write_text("model: []")
    assert not any(note.startswith("Here:") for note in read_comparison(output, NAMES).notes)


def test_published_numbers_stand_beside_with_their_circumstances(output):
    _, found, notes = table(output, elsewhere=True)
    assert [row["published"] for row in found] == ["95.12 / 0 [1]", "85.68 / 69.08 [2]", "89.26 / 55.96 [3]"]
    footnote = next(line for line in notes.splitlines() if line.startswith("[3]"))
    assert footnote.startswith("[3] DiffPure ODE: ") and footnote.endswith(
        "; 89.26 clean, 55.96 under PGD20-EoT10 (Liu et al. 2025 (anonymous version), Table 2, WRN-28-10, n = 1024; "
        "cifar10 there, digits here; linf 8/255 there, linf 0.15 here; sampler=sde there, ode here; "
        "attack.eot=10 there, 4 here), beside "
        "exact20 here."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"PurSAMERE does not compare with plain: seed: 0 in plain, 1 in PurSAMERE"),
        ({"images": {"count": 4, "digest": "1f"}}, "images.digest"),
        ({"success": "last"}, "success: 'any' in plain, 'last' in PurSAMERE"),
        (
            {"attacks": ("BPDA20", "threat", {"norm": "linf", "eps": 0.1})},
            "eps of BPDA20: 0.15 in plain, 0.1 in PurSAMERE",
        ),
        ({"attacks": ("BPDA20", "view", "exact")}, "view of BPDA20: 'bpda' in plain, 'exact' in PurSAMERE"),
    ],
    ids=["seed", "images", "headline", "budget", "view"],
)
def test_runs_that_do_not_compare_are_refused(change, message, output):
    file = output / "PurSAMERE/manifest.json"
    manifest = json.loads(file.read_text())
    if "attacks" in change:
        name, key, value = change["attacks"]
        change = {"attacks": manifest["attacks"] | {name: manifest["attacks"][name] | {key: value}}}
    file.write_text(json.dumps(manifest | change))
    with pytest.raises(ValueError, match=message):
        read_comparison(output, ("plain", "PurSAMERE"))


def test_a_row_may_have_fewer_images_and_attacks_and_says_so(output, rows, pgd, write_run):
    few = [*rows("Identity", "clean", "+-"), *rows("Identity", "gPGD20", "--")]
    write_run("few", few, {"gPGD20": pgd(view="gray")}, images={"count": 2, "digest": "1f"}, slots=4)
    head, found, notes = table(output, ("few", "plain", "PurSAMERE"))
    assert head[:6] == ["purifier", "clean", "gPGD20", "BPDA20", "exact20", "worst case"]
    assert found[0]["gPGD20"] == "0.0, n = 2" and found[0]["BPDA20"] == "" and found[1]["gPGD20"] == "0.0"
    assert "n = 4, but 2 for few" in notes and "few without BPDA20, exact20" in notes


def test_steps_are_told_where_attacks_have_other_ones(rows, pgd, write_run, tmp_path):
    write_run(
        "plain", rows("Identity", "clean", "+"), {"FGSM": pgd(steps=1), "PGD": pgd(), "Square": {"class": "Square"}}
    )
    (_, notes, *_) = read_comparison(tmp_path, ("plain",)).notes
    assert "; steps 1 (FGSM); steps 20 (PGD)" in notes and "Square)" not in notes.partition("steps")[2]


def test_a_number_under_the_attack_of_that_name_stands_in_brackets_by_classifier(rows, pgd, write_run, tmp_path):
    """MALADE's Table 2: PGD at two budgets, of two classifiers that the rows are named after."""
    attacks = {"PGD": pgd(eps=0.3, view="exact", steps=200), "PGD linf 0,4": pgd(eps=0.4, view="exact", steps=200)}
    for name in ("Madry", "CNN"):
        records = [row for attack in ("clean", *attacks) for row in rows("Identity", attack, "++--")]
        write_run(name, records, attacks, data="mnist, test images")
    _, (madry, cnn), notes = table(tmp_path, ("Madry", "CNN"))
    assert (madry["PGD"], madry["PGD linf 0,4"]) == ("50.0 (93.71)", "50.0 (0.02)")
    assert (cnn["PGD"], cnn["PGD linf 0,4"]) == ("50.0 (0)", "50.0 (0)")
    assert "93.71 under PGD (Srinivasan et al. 2021, Table 2, Madry; attack.steps=1000 there, 200 here" in notes


def test_numbers_of_other_images_and_budgets_do_not_stand_beside(output):
    for change in ({}, {"data": "cifar10, test images"}):
        for file in output.glob("*/manifest.json"):
            file.write_text(json.dumps(json.loads(file.read_text()) | change))
        assert "published" not in table(output)[0] and not read_comparison(output, NAMES).footnotes
    for file in output.glob("*/manifest.json"):
        file.write_text(file.read_text().replace("0.15", str(8 / 255)))
    _, found, notes = table(output)
    assert [row["published"] for row in found] == ["95.12 / 0 [1]", "85.68 / 69.08 [2]", "89.26 / 55.96 [3]"]
    assert "beside exact20 here" in notes and "cifar10 there" not in notes


def test_cautions_are_about_purifiers_by_their_names(output):
    found = read_comparison(output, NAMES).cautions
    assert any("few images" in text for text in found)
    assert any(text.startswith("Caution: DiffPure ODE: not set as in") and "sampler=sde" in text for text in found)
    assert not any("got one verdict" in text for text in found), "four verdicts each"
    (output / "DiffPure ODE").rename(output / "Something")
    assert not any("not set as in" in text for text in read_comparison(output, ("plain", "Something")).cautions)


def test_csv_has_every_number(output):
    found = list(csv.DictReader(io.StringIO(as_csv(read_comparison(output, NAMES, elsewhere=True)))))
    key = ("DiffPure ODE", "BPDA20", "any")
    (one,) = (row for row in found if (row["run"], row["attack"], row["semantics"]) == key)
    assert (one["headline"], one["accuracy"], one["n"], one["missing"]) == ("yes", "1", "2", "5")
    assert (one["calls"], one["gradients"], one["other_calls"], one["other_gradients"]) == ("19.5", "0", "5", "5")
    assert (one["seconds_per_purification"], one["deterministic"]) == ("0.25", "no")
    assert (one["nearest_attack"], one["nearest_robust"]) == ("BPDA50-EoT15", "81.4")
    assert "sampler=sde there, ode here; attack.steps=50 there, 20 here" in one["nearest_differs"]
    assert {row["attack"] for row in found} == {"clean", "gPGD20", "BPDA20", "exact20", "worst case"}


def test_latex_is_a_table_of_as_many_columns(output):
    text = as_latex(read_comparison(output, NAMES, elsewhere=True))
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert text.count(r"\midrule") == 1 and len(rows) == 4 and {row.count("&") for row in rows} == {9}
    assert "DiffPure ODE (5 verdicts missing)" in text and r"\par{\footnotesize [3] DiffPure" in text


def test_in_latex_the_first_note_is_the_caption_and_the_others_stand_below(output):
    comparison = read_comparison(output, NAMES)
    (caption,) = (line for line in as_latex(comparison).splitlines() if line.startswith(r"\caption"))
    below = [line for line in as_latex(comparison).splitlines() if line.startswith(r"\par{\footnotesize ")]
    assert "Wilson" in caption and "Attacks:" not in caption
    assert len(below) == len(comparison.notes) - 1 + len(comparison.cautions) + len(comparison.footnotes)
    assert r"\par{\footnotesize The same compare command completes them.}" in below


def test_everything_is_written(output):
    save_comparison(read_comparison(output, NAMES), output / "out")
    written = sorted(path.name for path in (output / "out").iterdir())
    assert written == ["comparison.csv", "comparison.md", "comparison.png", "comparison.tex"]


def test_the_figure_names_every_purifier_and_attack(output):
    figure = comparison_figure(read_comparison(output, NAMES))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["plain", "PurSAMERE", "DiffPure ODE *"]
    marks = {text.get_text() for text in figure.legends[0].get_texts()}
    assert marks == {"clean", "gPGD20", "BPDA20", "exact20", "worst case, 95 % interval"}


def test_without_records_there_is_nothing_to_draw_and_all_is_absent(tmp_path):
    comparison = read_comparison(tmp_path, ("a", "b"))
    assert comparison.absent == ("a", "b") and "Not evaluated yet: a, b." in as_markdown(comparison)
    with pytest.raises(ValueError, match="no records"):
        comparison_figure(comparison)
