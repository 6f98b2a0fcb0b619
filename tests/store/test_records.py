"""Records survive anything: one row per image whatever was interrupted or repeated; damage and mix-ups are named."""

from __future__ import annotations

import json
import math

import pytest

from lit_pursamere.sharding import Shard
from lit_pursamere.store import Records, read_rows
from lit_pursamere.store.manifest import read_manifest, run_of, write_manifest

MANIFEST = {"data": "digits, 8 images", "systems": {"PurSAMERE": "rho_pur=3"}, "attacks": {"pgd": {"steps": 20}}}


def row(index: int, attack: str = "pgd", correct: bool = True, system: str = "PurSAMERE") -> dict:
    return {
        "system": system,
        "attack": attack,
        "index": index,
        "votes_last": int(correct),
        "votes_any": None,
        "evaluations": 1,
        "run": run_of(MANIFEST),
    }


def test_round_trip(tmp_path):
    records = Records(tmp_path / "deep" / "folder", MANIFEST)
    rows = [row(2), row(0, correct=False), row(0, "clean"), row(1, system="undefended")]
    records.append(rows[:2])
    records.append(rows[2:])
    expected = sorted(rows, key=lambda r: (r["system"], r["attack"], r["index"]))
    assert read_rows(records.folder) == expected
    assert records.get("PurSAMERE", "pgd", 0) == row(0, correct=False)
    assert records.get("PurSAMERE", "pgd", 1) is None
    assert records.get("PurSAMERE", "clean", 2) is None


def test_a_run_that_failed_before_its_first_row_does_not_keep_the_folder(tmp_path):
    Records(tmp_path, MANIFEST)
    other = MANIFEST | {"data": "digits, 9 images"}
    with pytest.raises(ValueError, match="data: there 'digits, 8 images', now 'digits, 9 images'"):
        Records(tmp_path, other, rank=1)
    Records(tmp_path, other).append([row(0)])
    assert read_manifest(tmp_path) == other
    with pytest.raises(ValueError, match="results of another configuration"):
        Records(tmp_path, MANIFEST)


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    write_manifest(tmp_path, {"format": "purified set, parts", "split": "train", "data": "digits"})
    before = (tmp_path / "manifest.json").read_bytes()
    for rank in (0, 1):
        with pytest.raises(ValueError, match="holds something else: its manifest states format, split; choose another"):
            Records(tmp_path, MANIFEST, rank)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_images_without_any_row_are_not_kept_for_another_run(tmp_path):
    Records(tmp_path, MANIFEST)
    for name in ("pictures.npz", "images-1.float32"):
        (tmp_path / name).touch()
    Records(tmp_path, MANIFEST | {"data": "digits, 9 images"}).append([row(0)])
    assert not [*tmp_path.glob("*.npz"), *tmp_path.glob("images-*")]


def test_images_that_no_row_names_are_cut_off(tmp_path):
    """What was written between the images and their rows when the run was killed, by processes that are gone too."""
    manifest = MANIFEST | {"images": {"shape": [1, 2, 3]}}
    records = Records(tmp_path, manifest)
    for rank, places in ((0, [0, 2]), (1, [0])):
        (tmp_path / f"images-{rank}.float32").write_bytes(bytes(24 * 7))
        records.append([row(2 * place + rank) | {"stored": [rank, place], "run": records.run} for place in places])
    (tmp_path / "images-2.float64").write_bytes(bytes(96))
    records.release()
    Records(tmp_path, manifest)
    assert {file.name: file.stat().st_size for file in tmp_path.glob("images-*")} == {
        "images-0.float32": 24 * 4, "images-1.float32": 24 * 2,
    }  # fmt: skip


def test_a_run_that_was_killed_in_its_very_first_row_goes_on(tmp_path):
    Records(tmp_path, MANIFEST | {"images": {"shape": [1, 2, 3]}}).release()
    (tmp_path / "images-0.float32").write_bytes(bytes(48))
    (tmp_path / "records-0.jsonl").write_text('{"system": "Pur')
    assert not Records(tmp_path, MANIFEST | {"images": {"shape": [1, 2, 3]}}).rows
    assert not (tmp_path / "images-0.float32").exists()


def test_a_shard_mends_what_is_its_own_and_nothing_else(tmp_path):
    """Not every file system shows who else is writing there."""
    manifest = MANIFEST | {"images": {"shape": [1, 2, 3]}}
    Records(tmp_path, manifest).release()
    for number in (0, 1):
        (tmp_path / f"images-{number}.float32").write_bytes(bytes(48))
        (tmp_path / f"records-{number}.jsonl").write_text('{"system": "Pur')
    (tmp_path / "config.yaml.elsewhere-7.part").touch()
    with Records(tmp_path, manifest, 1, Shard(1, 2)):
        sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir() if file.name[0] in "cir"}
    assert sizes == {
        "images-0.float32": 48, "records-0.jsonl": 15, "records-1.jsonl": 0, "config.yaml.elsewhere-7.part": 0
    }  # fmt: skip


def test_rows_are_on_disk_as_soon_as_they_are_added(tmp_path):
    records = Records(tmp_path, MANIFEST)
    records.append([row(0)])
    assert records.file.read_text().splitlines() == [json.dumps(row(0))]
    records.append([row(1)])
    assert len(records.file.read_text().splitlines()) == 2


def test_a_restart_knows_what_is_done(tmp_path):
    Records(tmp_path, MANIFEST).append([row(0), row(1, correct=False)])
    again = Records(tmp_path, MANIFEST)
    assert again.get("PurSAMERE", "pgd", 1) == row(1, correct=False)
    again.append([row(2)])
    assert [r["index"] for r in read_rows(tmp_path)] == [0, 1, 2]


def test_an_image_counts_once(tmp_path):
    records = Records(tmp_path, MANIFEST)
    records.append([row(0), row(1)])
    records.append([row(0)])
    other = Records(tmp_path, MANIFEST, rank=1)
    other.append([row(1), row(3)])
    assert [r["index"] for r in read_rows(tmp_path)] == [0, 1, 3]


def test_indices_sort_as_numbers(tmp_path):
    Records(tmp_path, MANIFEST).append([row(10), row(9), row(100)])
    assert [r["index"] for r in read_rows(tmp_path)] == [9, 10, 100]


def test_several_processes_write_their_own_files(tmp_path):
    ranks = [Records(tmp_path, MANIFEST, rank) for rank in range(3)]
    for rank, records in enumerate(ranks):
        records.append([row(rank), row(rank + 3)])
        records.release()
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [f"records-{rank}.jsonl" for rank in range(3)]
    assert [r["index"] for r in read_rows(tmp_path)] == list(range(6))
    assert Records(tmp_path, MANIFEST, rank=1).get("PurSAMERE", "pgd", 5) == row(5)  # also those of other ranks
    assert Records(tmp_path, MANIFEST).get("PurSAMERE", "pgd", 5) == row(5)  # also with fewer processes


# --- interruptions


@pytest.mark.parametrize("keep", [1, 20, -1], ids=["first byte", "middle", "all but the newline"])
def test_a_broken_last_line_is_dropped_and_cut_off(tmp_path, keep):
    records = Records(tmp_path, MANIFEST)
    records.append([row(0), row(1)])
    whole = records.file.read_bytes()
    with open(records.file, "ab") as file:
        file.write((json.dumps(row(2)) + "\n").encode()[:keep])
    records.release()
    assert [r["index"] for r in read_rows(tmp_path)] == [0, 1]
    again = Records(tmp_path, MANIFEST)
    assert again.file.read_bytes() == whole
    assert again.get("PurSAMERE", "pgd", 2) is None
    again.append([row(2, correct=False)])
    assert read_rows(tmp_path) == [row(0), row(1), row(2, correct=False)]


def test_a_file_that_is_nothing_but_a_broken_line(tmp_path):
    (tmp_path / "records-0.jsonl").write_text('{"system": "Pur')
    with pytest.raises(FileNotFoundError, match="no records"):
        read_rows(tmp_path)
    Records(tmp_path, MANIFEST).append([row(0)])
    assert read_rows(tmp_path) == [row(0)]


def test_the_broken_line_of_another_process_is_left_to_it_while_it_is_there(tmp_path):
    other = Records(tmp_path, MANIFEST, rank=1)
    other.append([row(1)])
    whole = other.file.read_bytes()
    with open(other.file, "a") as file:
        file.write('{"system": "Pur')
    with Records(tmp_path, MANIFEST) as first:
        assert first.get("PurSAMERE", "pgd", 1) == row(1)
    assert other.file.read_bytes() == whole + b'{"system": "Pur'
    other.release()
    Records(tmp_path, MANIFEST)
    assert other.file.read_bytes() == whole, "cut off by who is alone there"


def test_rows_of_another_run_are_left_out_and_that_is_said(tmp_path):
    """As a run writes them that goes on in a folder which was emptied under it."""
    with Records(tmp_path, MANIFEST) as records:
        records.append([row(0), row(1)])
    other = MANIFEST | {"systems": {"PurSAMERE": "rho_pur=0.1"}}
    with open(records.file, "a") as file:
        file.write(json.dumps(row(0, correct=False) | {"run": run_of(other)}) + "\n")
    with pytest.warns(UserWarning, match=r"records-0\.jsonl holds 1 rows of another run; they are left out"):
        assert read_rows(tmp_path) == [row(0), row(1)]
    with pytest.warns(UserWarning, match="another run"):
        assert Records(tmp_path, MANIFEST).get("PurSAMERE", "pgd", 0) == row(0)


@pytest.mark.parametrize("damage", [b'{"system": "Pur', b"\x00\x00\x00", b"\xff\xfe"])
def test_a_damaged_line_elsewhere_is_an_error_that_names_it(tmp_path, damage):
    records = Records(tmp_path, MANIFEST, rank=3)
    records.append([row(0), row(1), row(2)])
    records.release()
    lines = records.file.read_bytes().split(b"\n")
    lines[1] = damage
    records.file.write_bytes(b"\n".join(lines))
    for read in (read_rows, lambda folder: Records(folder, MANIFEST)):
        with pytest.raises(ValueError, match=r"records-3\.jsonl, line 2"):
            read(tmp_path)


def test_a_damaged_last_line_with_its_newline_is_an_error_too(tmp_path):
    (tmp_path / "records-0.jsonl").write_text(json.dumps(row(0)) + '\n{"system": "Pur\n')
    with pytest.raises(ValueError, match=r"records-0\.jsonl, line 2"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("index", "zero"), ("index", -1), ("index", True), ("system", {}), ("attack", 7), ("label", "cat"),
        ("seed", "x"), ("prediction_last", "cat"), ("statistic_last", "high"),
        ("evaluations", 0), ("evaluations", "x"), ("votes_last", "1"), ("votes_last", 2), ("votes_any", math.inf),
        ("seconds", "fast"), ("seconds", -1.0), ("linf", math.nan), ("first_success", "never"), ("first_success", -2),
        ("stored", "here"), ("stored", [0]), ("stored", ["../x", 0]), ("stored", [0, -1]),
    ],
)  # fmt: skip
def test_an_entry_that_no_evaluation_writes_is_named_with_file_and_line(entry, value, tmp_path):
    (tmp_path / "records-0.jsonl").write_text(json.dumps(row(0)) + "\n" + json.dumps(row(1) | {entry: value}) + "\n")
    with pytest.raises(ValueError, match=rf"records-0\.jsonl, line 2 is damaged \({entry}: .*\); remove that line"):
        read_rows(tmp_path)


@pytest.mark.parametrize("entry", ["system", "attack", "index", "evaluations"])
def test_an_entry_that_is_missing_is_named(entry, tmp_path):
    lacking = {key: value for key, value in row(0).items() if key != entry}
    (tmp_path / "records-0.jsonl").write_text(json.dumps(lacking) + "\n")
    with pytest.raises(ValueError, match=rf"line 1 is damaged \('{entry}'\)"):
        read_rows(tmp_path)


@pytest.mark.parametrize("line", ["[" * 100_000, "[1, 2]", "5", "9" * 5000])
def test_a_line_that_is_no_row_is_named(line, tmp_path):
    (tmp_path / "records-0.jsonl").write_text(f"{line}\n")
    with pytest.raises(ValueError, match="line 1 is damaged") as error:
        read_rows(tmp_path)
    assert len(str(error.value)) < 500


def test_no_records_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        read_rows(tmp_path)
    Records(tmp_path, MANIFEST)
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        read_rows(tmp_path)
    (tmp_path / "records-0.jsonl").touch()  # as a kill before the first row leaves it
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        read_rows(tmp_path)


# --- manifests


def test_the_manifest_is_written_by_the_first_process(tmp_path):
    Records(tmp_path, MANIFEST, rank=1)
    assert not (tmp_path / "manifest.json").exists()
    Records(tmp_path, MANIFEST, rank=0)
    assert read_manifest(tmp_path) == MANIFEST
    assert sorted(path.name for path in tmp_path.iterdir() if ".lock" not in path.name) == ["manifest.json"]


def test_what_json_cannot_tell_apart_is_the_same_manifest(tmp_path):
    for manifest in ({"sigmas": (1, 2), "table": {1: "a"}}, {"sigmas": [1, 2], "table": {"1": "a"}}):
        Records(tmp_path, manifest)
        assert Records(tmp_path, manifest).rows == {}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"attacks": {"pgd": {"steps": 40}}}, ["attacks.pgd.steps: there 20, now 40"]),
        ({"data": "digits, 9 images"}, ["data", "8 images", "9 images"]),
        ({"seed": 7}, ["seed", "7"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_manifest_is_an_error_that_names_the_change(tmp_path, change, names, rank):
    Records(tmp_path, MANIFEST).append([row(0)])
    with pytest.raises(ValueError) as error:
        Records(tmp_path, MANIFEST | change, rank)
    assert all(name in str(error.value) for name in names)
    assert "rho_pur=3" not in str(error.value)  # what agrees is not repeated
    assert read_manifest(tmp_path) == MANIFEST
    assert read_rows(tmp_path) == [row(0)]


def test_a_missing_entry_is_a_change(tmp_path):
    Records(tmp_path, MANIFEST).append([row(0)])
    with pytest.raises(ValueError, match="systems"):
        Records(tmp_path, {name: value for name, value in MANIFEST.items() if name != "systems"})


def test_rows_of_another_run_alone_are_told(tmp_path):
    Records(tmp_path, MANIFEST).append([row(0)])
    write_manifest(tmp_path, MANIFEST | {"data": "digits, 9 images"})
    with pytest.warns(UserWarning, match="rows of another run"), pytest.raises(ValueError) as caught:
        read_rows(tmp_path)
    assert "are of another run than its manifest.json states; restore that file" in str(caught.value)
