"""What counts as right: per semantics, and in the worst case over attacks."""

from __future__ import annotations

import pytest

from lit_pursamere.report import SEMANTICS, Accuracy, accuracies, worst_cases
from lit_pursamere.report.verdicts import components, mean_seconds, other_reading, share, stand_ins


def test_accuracies_count_rows(rows):
    table = accuracies([*rows("A", "clean", "++++"), *rows("A", "pgd", "++--", "+---"), *rows("B", "gray", "+++-")])
    assert table == {
        ("A", "clean", "last"): Accuracy(4, 4),
        ("A", "pgd", "last"): Accuracy(2, 4),
        ("A", "pgd", "any"): Accuracy(1, 4),
        ("B", "gray", "last"): Accuracy(3, 4),
    }


def test_an_unjudged_row_counts_neither_way(rows):
    unjudged = [row | {"index": row["index"] + 2} for row in rows("A", "pgd", "--")]
    table = accuracies(rows("A", "pgd", "+-", "+-") + unjudged)
    assert table["A", "pgd", "last"] == Accuracy(1, 4)
    assert table["A", "pgd", "any"] == Accuracy(1, 2)


@pytest.mark.parametrize(
    ("votes", "expected"), [(5, (1, 1, 1)), (3, (0.6, 0, 1)), (2, (0.4, 0, 0)), (0, (0, 0, 0))], ids=str
)
def test_repeated_verdicts_have_a_mean_a_worst_case_and_a_majority(rows, votes, expected):
    (row,) = rows("A", "pgd", str(votes), str(votes), evaluations=5)
    assert tuple(share(row, semantics) for semantics in SEMANTICS) == expected * 4


def test_half_of_the_votes_is_no_majority(rows):
    (row,) = rows("A", "pgd", "2", evaluations=4)
    assert share(row, "last vote") == 0 and share(row, "any vote") is None


def test_a_rejection_is_right_of_attacked_images_only_and_only_if_so_read(rows):
    """Image 0: right; 1: rejected under attack; 2: rejected, but not at an inner iterate; 3: rejected clean."""
    evaluation = [
        *rows("A", "clean", "+++-", unfooled_last=[1, 1, 1, 1], unfooled_any=None),
        *rows("A", "pgd", "+--+", "+--+", unfooled_last=[1, 1, 1, 1], unfooled_any=[1, 1, 0, 1]),
        *rows("A", "gray", "++++", unfooled_last=[1, 1, 1, 1], unfooled_any=None),
    ]
    table = accuracies(evaluation)
    assert {s: table["A", "pgd", s].correct for s in ("last", "any", "last or rejected", "any or rejected")} == {
        "last": 2, "any": 2, "last or rejected": 4, "any or rejected": 3
    }  # fmt: skip
    assert table["A", "clean", "last"] == table["A", "clean", "last or rejected"] == Accuracy(3, 4)
    worst = {s: worst_cases(evaluation, ["pgd", "gray"], s)["A"].correct for s in ("any", "any or rejected")}
    assert worst == {"any": 1, "any or rejected": 2}
    assert worst_cases(evaluation, ["pgd"], "last or rejected") == {"A": Accuracy(3, 4)}


@pytest.mark.parametrize(
    ("semantics", "expected"),
    [
        ("last", ["last"]),
        ("any", ["any", "last"]),
        ("any vote", ["any vote", "any", "last vote", "last"]),
        ("any or rejected", ["any or rejected", "last or rejected", "any", "last"]),
    ],
)
def test_what_replaces_a_semantics_that_was_not_judged(semantics, expected):
    assert stand_ins(semantics) == expected


def test_the_other_reading_and_back():
    assert {other_reading(other_reading(s)) for s in SEMANTICS} == set(SEMANTICS)
    assert all("".join(components(s)) == s and components(other_reading(s))[:2] == components(s)[:2] for s in SEMANTICS)
    assert other_reading("any vote") == "any vote or rejected"


def test_worst_case_by_hand(rows):
    """Image 0 withstands all; 1 falls to weak, 2 to strong at an inner iterate, 3 to gray, 4 is wrong when clean."""
    evaluation = [
        *rows("A", "clean", "++++-"),
        *rows("A", "weak", "+-+++", "+-+++"),
        *rows("A", "strong", "+++++", "++-++"),
        *rows("A", "gray", "+++-+"),
    ]
    attacks = ["weak", "strong", "gray"]
    assert worst_cases(evaluation, attacks, "any") == {"A": Accuracy(1, 5)}
    assert worst_cases(evaluation, attacks, "last") == {"A": Accuracy(2, 5)}
    assert worst_cases(evaluation, ["weak"], "any") == {"A": Accuracy(3, 5)}
    assert worst_cases(evaluation, [], "any") == {"A": Accuracy(4, 5)}


def test_worst_case_of_repeated_verdicts_by_hand(rows):
    evaluation = [
        *rows("A", "clean", "444", evaluations=4),
        *rows("A", "pgd", "434", "433", evaluations=4),
        *rows("A", "gray", "241", evaluations=4),
    ]
    attacks = ["pgd", "gray"]
    assert worst_cases(evaluation, attacks, "any") == {"A": Accuracy(0.5 + 0.75 + 0.25, 3)}
    assert worst_cases(evaluation, attacks, "any worst") == {"A": Accuracy(0, 3)}
    assert worst_cases(evaluation, attacks, "any vote") == {"A": Accuracy(1, 3)}


def test_only_images_that_every_attack_has_reached_enter_the_worst_case(rows):
    evaluation = [*rows("A", "clean", "++++"), *rows("A", "weak", "+++"), *rows("A", "strong", "+-")]
    assert worst_cases(evaluation, ["weak", "strong"], "last") == {"A": Accuracy(1, 2)}
    assert worst_cases(evaluation, ["weak", "strong", "never run"], "last") == {}


def test_seconds_are_means_over_images(rows):
    evaluation = rows("A", "pgd", "++", seconds=[1.0, 3.0]) + rows("A", "clean", "+")
    assert mean_seconds(evaluation) == {("A", "pgd"): 2.0}
