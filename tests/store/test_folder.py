"""A folder is opened by one run at a time, for one configuration; whatever a killed process left in it is mended."""

from __future__ import annotations

import shutil

import pytest

from lit_pursamere.store import ResultsFolder
from lit_pursamere.store.manifest import read_manifest, run_of
from lit_pursamere.store.outputs import Outputs


def key_of(row: dict) -> int:
    return row["index"]


def test_only_one_run_has_it_open(tmp_path):
    with ResultsFolder(tmp_path / "new", {"a": 1}) as folder:
        with pytest.raises(OSError, match="another run"):
            ResultsFolder(tmp_path / "new", {"a": 1})
        assert folder.folder == tmp_path / "new"
    ResultsFolder(tmp_path / "new", {"a": 1}).release()


def test_it_is_bound_to_one_configuration(tmp_path):
    ResultsFolder(tmp_path, {"a": 1}).release()
    for rank in (0, 1):
        with pytest.raises(ValueError, match=r"another configuration \(a: there 1, now 2\)"):
            ResultsFolder(tmp_path, {"a": 2}, rank)
    ResultsFolder(tmp_path, {"a": 1}).release()  # a folder that was refused is not kept from others
    assert read_manifest(tmp_path) == {"a": 1}


def test_without_a_configuration_nothing_is_stated(tmp_path):
    ResultsFolder(tmp_path).release()
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_removes_what_is_half_written(tmp_path, rank):
    (tmp_path / "audit.md.host-7.part").touch()
    ResultsFolder(tmp_path, rank=rank).release()
    assert (tmp_path / "audit.md.host-7.part").exists() == bool(rank)


def test_rows_outlast_a_kill(tmp_path):
    with ResultsFolder(tmp_path) as folder:
        assert folder.read_rows("rows.jsonl", key_of) == {}
        folder.append_rows("rows.jsonl", [{"index": 3, "x": 1}, {"index": 1}])
        folder.append_rows("rows.jsonl", [{"index": 3, "x": 2}])
    whole = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(whole + b'{"index": 4}')
    with ResultsFolder(tmp_path) as folder:
        assert folder.read_rows("rows.jsonl", key_of) == {3: {"index": 3, "x": 2}, 1: {"index": 1}}
    assert (tmp_path / "rows.jsonl").read_bytes() == whole


@pytest.mark.parametrize("damage", ['{"ind\n', '{"i": 0}\n', "3\n"])
def test_a_damaged_row_is_named_and_the_folder_left_to_others(tmp_path, damage):
    (tmp_path / "manifest.json").write_text('{"manifest_format": 3}')
    (tmp_path / "made.jsonl").write_text('{"name": "a"}\n' + damage)
    with pytest.raises(ValueError, match=r"made\.jsonl, line 2 is damaged \(.*\); remove that line and run again"):
        Outputs(tmp_path, {})
    ResultsFolder(tmp_path, {}).release()


def test_files_of_others_are_neither_bound_nor_removed(tmp_path):
    (tmp_path / "film.mp4.part").touch()
    with pytest.raises(ValueError, match=r"holds other things \(film\.mp4\.part\) and no manifest"):
        Outputs(tmp_path, {})
    assert (tmp_path / "film.mp4.part").exists() and read_manifest(tmp_path) is None
    ResultsFolder(tmp_path, {}).release()
    assert (tmp_path / "film.mp4.part").exists(), "it is not named like one of ours"


def test_a_run_that_was_killed_before_it_had_a_manifest_leaves_the_folder_empty(tmp_path):
    (tmp_path / "manifest.json.host-7.part").touch()
    Outputs(tmp_path, {}).release()
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith(".lock")) == ["manifest.json"]


def test_rows_name_their_run(tmp_path):
    with ResultsFolder(tmp_path, {"a": 1}) as folder:
        (row,) = folder.append_rows("rows.jsonl", [{"index": 1}])
    with ResultsFolder(tmp_path, {"a": 1}) as folder:
        assert folder.read_rows("rows.jsonl", key_of) == {1: row} and row["run"] == run_of({"a": 1})


def test_a_survivor_keeps_out_another_configuration(tmp_path):
    """Of two processes the first was killed: the second may still write rows of its run."""
    ResultsFolder(tmp_path, {"a": 1}).release()
    survivor = ResultsFolder(tmp_path, {"a": 1}, rank=1)
    (tmp_path / "images.npy.host-7.part").touch()
    with pytest.raises(ValueError, match="a: there 1, now 2"):
        ResultsFolder(tmp_path, {"a": 2})
    ResultsFolder(tmp_path, {"a": 1}).release()
    assert (tmp_path / "images.npy.host-7.part").exists(), "it may be the survivor's"
    survivor.release()


def test_a_folder_that_was_deleted_ends_the_run_that_made_things_in_it(tmp_path):
    outputs = Outputs(tmp_path / "out", {})
    outputs.write("a/1.png", b"1", "source")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(OSError, match=r"out was removed .*start the command again \(with 1 files that were made"):
        outputs.write("a/2.png", b"2", "source")
    assert not (tmp_path / "out").exists()
