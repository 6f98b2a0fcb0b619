"""`runs` lists what is below folders and says in what runs differ; it builds nothing of what it finds."""

from __future__ import annotations

import json

import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.store.manifest import write_manifest

ATTACK = {"class": "PGD", "threat": {"norm": "linf", "eps": 0.15}, "view": "bpda", "steps": 20}


@pytest.fixture
def make(tmp_path):
    """Make a run of four images, of which so many are right under its attack: make(name, right, **manifest)."""

    def made(name, right=2, rows=4, **entries):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        manifest = {
            "data": "digits, test images", "images": {"count": 4, "digest": "0f"}, "seed": 0, "success": "any",
            "systems": {"PurSAMERE": "PurSAMERE()"}, "weights": {"PurSAMERE": "ab"}, "attacks": {"BPDA20": ATTACK},
        }  # fmt: skip
        write_manifest(folder, manifest | entries)
        lines = []
        for index in range(rows):
            row = {"system": "PurSAMERE", "index": index, "evaluations": 1, "votes_last": 1, "votes_any": None}
            lines += [row | {"attack": "clean"}]
            lines += [row | {"attack": "BPDA20", "votes_last": int(index < right), "votes_any": int(index < right)}]
        (folder / "records-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "environment.jsonl").write_text('{"time": "2026-01-02T03:04:05+00:00"}\n')
        return folder

    return made


def listing(capsys, *folders):
    """Rows of the first table by the end of the folder, and all that was printed."""
    assert main(["runs", *map(str, folders)]) == 0
    told = capsys.readouterr()
    lines = told.out.split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].rpartition("/")[2]: row[1:] for row in cells[2:]}, told


def test_every_run_is_a_row(make, tmp_path, capsys):
    make("a/first"), make("a/deep/er/second", right=0), make("late", rows=3), make("empty", rows=0)
    (tmp_path / "a/records-0.jsonl").touch()
    found, _ = listing(capsys, tmp_path)
    common = ["digits, test images", "PurSAMERE", "BPDA20", "4"]
    assert found == {
        "first": [*common, "50.0 [15.0, 85.0]", "yes", "2026-01-02 03:04"],
        "second": [*common, "0.0 [0.0, 49.0]", "yes", "2026-01-02 03:04"],
        "late": [*common, "66.7 [20.8, 93.9]", "2 verdicts missing", "2026-01-02 03:04"],
        "empty": [*common, "", "no records yet", "2026-01-02 03:04"],
    }


def test_folders_of_something_else_are_no_runs(make, tmp_path, capsys):
    write_manifest(tmp_path, {"purifier": {"class": "ADP"}, "data": "digits", "split": "train"})
    found, told = listing(capsys, tmp_path)
    assert not found and "no runs below" in told.err and not told.out


def test_a_damaged_run_is_a_row_and_a_line_and_hides_no_other(make, tmp_path, capsys):
    make("good")
    for name, content in (("torn", "{"), ("poor", '{"manifest_format": 3, "systems": {}, "attacks": {}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(content)
        (tmp_path / name / "records-0.jsonl").touch()
    (tmp_path / "site").mkdir()
    (tmp_path / "site/manifest.json").write_text('{"name": "of a web page"}')
    make("strange", success="sometimes")
    found, told = listing(capsys, tmp_path)
    assert {name for name, row in found.items() if row[5] == "unreadable"} == {"torn", "poor", "strange"}
    assert found["good"][5] == "yes" and "site" not in found
    assert all(words in told.err for words in ("torn/manifest.json is damaged", "does not state", "sometimes"))


def test_several_folders_are_compared(make, capsys):
    quick = ATTACK | {"steps": 5}
    folders = [
        make("a"),
        make("b", seed=3, attacks={"BPDA20": quick}),
        make("c", attacks={"BPDA20": ATTACK, "x": quick}),
    ]
    _, told = listing(capsys, *folders)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in told.out.split("\n\n")[1].splitlines()]
    assert [row for row in rows if not row[0].startswith("-")] == [
        ["setting", "a", "b", "c"],
        ["attacks.BPDA20.steps", "20", "5", "20"],
        ["attacks.x", "-", "-", "PGD"],
        ["seed", "0", "3", "0"],
    ]


def test_equal_runs_are_told_to_be_equal_and_one_folder_is_not_compared(make, tmp_path, capsys):
    folders = [make("a"), make("b")]
    assert "No setting differs" in listing(capsys, *folders)[1].out
    assert "setting" not in listing(capsys, tmp_path)[1].out
    assert len(listing(capsys, *folders, tmp_path)[0]) == 2, "every run once"


def test_too_many_runs_are_listed_and_not_compared(make, tmp_path, capsys):
    for number in range(9):
        make(f"many/{number}", seed=number)
    found, told = listing(capsys, tmp_path / "many", make("one"))
    assert len(found) == 10 and "10 runs are too many" in told.err and "seed" not in told.out


def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["runs", str(tmp_path / "none")]) == 1
    assert "no folder" in capsys.readouterr().err


def test_names_of_strangers_are_text_and_links_are_not_followed(make, tmp_path, capsys):
    make("elsewhere/run")
    evil = "\x1b]0;title\x07 <img src=x>|"
    make("here/run", data=evil, attacks={"BPDA20": ATTACK | {"class": evil}})
    make("here/other")
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere")
    _, told = listing(capsys, tmp_path / "here/run", tmp_path / "here/other")
    assert "\x1b" not in told.out and "\\<img" in told.out
    assert set(listing(capsys, tmp_path / "here")[0]) == {"run", "other"}
