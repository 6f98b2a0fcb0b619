"""Published numbers are found under the names of our systems and attacks, and doubtful ones say why."""

from __future__ import annotations

import pytest

from lit_pursamere.results.published import all_published, contradicts, published

EPS = 8 / 255
PURSAMERE = "PurSAMERE(rho_pur={}, rho_sam=1.5, draws=4, levels=232 (50 to 0.01), noise=Seeded(0))"


def first(*question):
    return published(*question)[0]


@pytest.mark.parametrize(
    ("question", "clean", "robust", "source"),
    [
        (("cifar10", "PurSAMERE", "gPGD20", "linf", EPS), 85.68, 84.17, "Hoang et al. 2026, Table 1"),
        (("cifar10", "PurSAMERE", "BPDA20-det", "linf", EPS), 85.68, 69.08, "Hoang et al. 2026, Table 2"),
        (("cifar10", "PurSAMERE", "BPDA200-det l1", "l1", 12.0), 84.6, 66.9, "Hoang et al. 2026, Table 3"),
        (("cifar10", "DP_DDPM", "PGD20-EoT10", "linf", EPS), 85.94, 47.27, "Liu et al. 2025, Table 3"),
        (("cifar10", "DP_DDIM", "PGD20-EoT10", "l2", 0.5), 88.96, 67.58, "Liu et al. 2025, Table 10"),
        (("cifar10", "DP_EDM", "PGD20-EoT10", "linf", EPS), 86.43, 62.5, "Liu et al. 2025, Table 9"),
        (("cifar10", "DiffPure", "AA rand", "linf", EPS), 89.26, 56.25, "Liu et al. 2025, Table 14"),
        (("cifar10", "COUP", "AutoAttack", "l2", 0.5), 92.58, 83.13, "Zhang et al. 2024, Table 2"),
        (("cifar10", "ADP", "BPDA40-EoT15", "linf", EPS), 86.14, 70.01, "Zhang et al. 2024, Table 3"),
        (("cifar10", "ADBM", "PGD200-EoT20", "linf", EPS), 91.9, 47.7, "Hoang et al. 2026, Table 3"),
        (("cifar100", "DP_DDPM", "PGD20-EoT10", "linf", EPS), 57.52, 20.41, "Liu et al. 2025, Table 3"),
        (("mnist", "MALADE", "BPDA-EoT30", "linf", 0.3), None, 82.48, "Srinivasan et al. 2021, Table 2"),
    ],
)  # fmt: skip
def test_known_numbers_are_found(question, clean, robust, source):
    cell = first(*question)
    assert (cell.clean, cell.robust, cell.source) == (clean, robust, source)


def test_every_part_of_the_question_matters():
    assert published("cifar10", "PurSAMERE", "BPDA20-det", "linf", EPS)
    for other in (
        ("digits", "PurSAMERE", "BPDA20-det", "linf", EPS),
        ("cifar10", "MALADE", "BPDA20-det", "linf", EPS),
        ("cifar10", "PurSAMERE", "BPDA20", "linf", EPS),
        ("cifar10", "PurSAMERE", "BPDA20-det", "l2", EPS),
        ("cifar10", "PurSAMERE", "BPDA20-det", "linf", 4 / 255),
    ):
        assert published(*other) == []


def test_names_are_compared_without_punctuation_and_budgets():
    assert published("cifar10", "DPDDPM", "pgd20-eot10 linf 8/255", "linf", EPS) == published(
        "cifar10", "DP_DDPM", "PGD20-EoT10", "linf", 0.0313726
    )
    assert first("cifar10", "Identity", "PGD20-EoT10", "linf", EPS).system == "undefended"
    assert len(published("cifar10", "PurSAMERE")) == 9


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (("cifar10", "ADBM", "PGD200-EoT20", "l1", 12.0), "49.6"),
        (("cifar10", "DP_DDIM", "BPDA20-det", "linf", EPS), "exact gradients"),
        (("mnist", "MALADE", "PGD", "linf", 0.3), "masked"),
        (("mnist", "MALADE", "Transfer"), "not stated"),
    ],
)
def test_doubtful_numbers_say_why(question, words):
    assert words in first(*question).doubtful


def test_the_swapped_pair_and_the_copied_column_are_marked():
    table = [cell for cell in all_published() if cell.source == "Hoang et al. 2026, Table 2"]
    assert {cell.robust for cell in table if "swapped" in cell.doubtful} == {17.09, 39.16}
    copied = [cell for cell in all_published() if "copy error" in cell.doubtful]
    assert sorted(cell.robust for cell in copied) == [44.73, 48.63, 71.68, 72.27]
    assert not any(cell.doubtful for cell in published("cifar10", "PurSAMERE"))


def test_a_setting_that_our_purifier_contradicts_is_recognised():
    cells = published("cifar10", "PurSAMERE", "BPDA20-det", "linf", EPS)
    for rho, robust in (("3", 69.08), ("2.5", 63.35), ("2", 48.17)):
        assert [c.robust for c in cells if not contradicts(c, PURSAMERE.format(rho))] == [robust]
    assert all(contradicts(cell, PURSAMERE.format("1.5")) for cell in cells)
    assert all(contradicts(cell, PURSAMERE.format("3").replace("232", "22")) for cell in cells)


def test_a_label_keeps_what_is_not_confirmed():
    cell = first("cifar10", "PurSAMERE", "BPDA20-det", "linf", EPS)
    assert cell.label(PURSAMERE.format("3")) == "Hoang et al. 2026, Table 2, WRN-28-10"
    assert cell.label("PurSAMERE(rho_sam=1.5)").endswith("WRN-28-10, rho_pur=3 draws=4 levels=232")
    assert first("cifar10", "DP_DDPM", "PGD20-EoT10", "linf", EPS).label().endswith("WRN-28-10, NFE 100")


def test_the_table_is_sound():
    cells = all_published()
    assert len(cells) > 300 and len(set(cells)) == len(cells)
    for cell in cells:
        assert 0 <= cell.robust <= 100 and (cell.clean is None or cell.robust <= cell.clean + 0.01)
        assert (cell.norm is None) == (cell.eps is None) and cell.norm in (None, "linf", "l2", "l1")
        assert "et al. 20" in cell.source and cell.n in (None, 512, 1000, 1024, 10_000)
