"""Two processes (gloo, CPU) train as one, and evaluate exactly the images that one evaluates."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from lit_pursamere.cli.main import main
from lit_pursamere.store import read_rows
from lit_pursamere.store.certificates import read_certificates

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def warm(warm_commands):
    with warm_commands():
        yield


def started(repository_root, *args, processes=1, launcher=(), path=""):
    """Run the command line in a process of its own."""
    command = [
        sys.executable, *launcher, "-m", "lit_pursamere", *args, f"--trainer.devices={processes}",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.logger=false",
    ]  # fmt: skip
    if processes > 1:
        command.append("--trainer.strategy=ddp")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{path}:{repository_root}"}
    return subprocess.run(command, cwd=repository_root, env=environment, capture_output=True, text=True, timeout=240)


def run(*args, **options):
    """Run it, as a user does, to its end; returns its output."""
    done = started(*args, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def rows(repository_root, tmp_path_factory):
    """Rows of 11 images (odd, so that an even split would repeat one) from one and from two processes."""
    found = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes{processes}")
        run(
            repository_root, "test", "--config=configs/digits/robustness.yaml", "--data.test_size=11",
            "--data.eval_batch_size=3", "--model.pictures=0",
            "--model.purifier.sigmas.stride=6", "--model.attacks.gPGD20.steps=4", "--model.attacks.BPDA20-det.steps=2",
            f"--model.output={folder}/out", f"--trainer.default_root_dir={folder}", "--model.pictures=0",
            processes=processes,
        )  # fmt: skip
        found[processes] = (read_rows(folder / "out"), folder / "out")
    return found


def test_two_processes_give_the_numbers_of_one(rows):
    (one, _), (two, _) = rows[1], rows[2]
    assert len(one) == 2 * 3 * 11
    assert [row | {"seconds": 0} for row in one] == [row | {"seconds": 0} for row in two], "bit for bit"


def test_shards_need_not_have_the_same_number_of_processes(rows, repository_root, tmp_path):
    for shard, processes in (("1/2", 1), ("0/2", 2)):
        said = run(
            repository_root, "test", "--config=configs/digits/robustness.yaml", "--data.test_size=11",
            "--data.eval_batch_size=3", "--model.pictures=0", "--model.purifier.sigmas.stride=6",
            "--model.attacks.gPGD20.steps=4", "--model.attacks.BPDA20-det.steps=2", f"--model.output={tmp_path}/out",
            f"--trainer.default_root_dir={tmp_path}", f"--shard={shard}", processes=processes,
        )  # fmt: skip
    assert "worst case" in said and not (tmp_path / "out/records-3.jsonl").exists()
    files = [tmp_path / f"out/records-{number}.jsonl" for number in (0, 1, 2)]
    assert [file.read_text().count("\n") for file in files] == [6 * 3, 6 * 5, 6 * 3], "chunks 0; 1 and 3; 2"
    assert [row | {"seconds": 0} for row in read_rows(tmp_path / "out")] == [row | {"seconds": 0} for row in rows[1][0]]


def test_two_processes_agree_on_a_batch_size_that_they_find(rows, repository_root, tmp_path):
    said = run(
        repository_root, "test", "--config=configs/digits/robustness.yaml", "--data.test_size=11",
        "--data.eval_batch_size=auto", "--model.pictures=0", "--model.purifier.sigmas.stride=6",
        "--model.attacks.gPGD20.steps=4", "--model.attacks.BPDA20-det.steps=2", f"--model.output={tmp_path}/out",
        f"--trainer.default_root_dir={tmp_path}", processes=2,
    )  # fmt: skip
    assert said.count("batches of 5 images") == 1, "11 images for two processes"
    verdicts = [{name: row[name] for name in ("index", "attack", "votes_last", "votes_any")} for row in rows[1][0]]
    assert [{name: row[name] for name in verdicts[0]} for row in read_rows(tmp_path / "out")] == verdicts


def test_no_image_is_evaluated_twice(rows):
    shards = [(rows[2][1] / f"records-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    assert [len(shard) for shard in shards] == [6 * 6, 6 * 5]


def test_fit_trains_with_two_processes(repository_root, tmp_path):
    file = tmp_path / "net.safetensors"
    before = load_file(repository_root / "checkpoints/digits/classifier.safetensors")
    run(
        repository_root, "fit", "--config=configs/digits/classifier.yaml", "--trainer.max_epochs=3",
        "--data.purified=null", f"--model.export={file}", f"--trainer.default_root_dir={tmp_path}",
        "--trainer.callbacks=null", processes=2,
    )  # fmt: skip
    run(
        repository_root, "test", "--config=configs/digits/robustness.yaml", f"--model.classifier.checkpoint={file}",
        "--model.purifier=Identity", "--model.attacks={}", "--model.pictures=0", f"--model.output={tmp_path}/out",
        f"--trainer.default_root_dir={tmp_path}",
    )  # fmt: skip
    after = load_file(file)
    assert after.keys() == before.keys()
    rows = read_rows(tmp_path / "out")
    assert sum(row["votes_last"] for row in rows) / len(rows) > 0.5, "three epochs on two processes learn something"


# Batch normalisation would see other batches, and its synchronised form exists for GPUs only.
PLAIN_NET = """
from torch import nn

class PlainNet(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 10))
"""


HOSTILE = {"view": "exact", "threat": {"norm": "linf", "eps": 0.1}, "steps": 2, "start": "ball"}


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:Total length of")
@pytest.mark.parametrize("adversarial", [False, True])
def test_two_processes_step_as_one(adversarial, repository_root, tmp_path, monkeypatch):
    """Launched by torchrun; two accumulated steps of the same command in float64, each on the same 2 x 32 images, or on
    them as an attack through a purifier with fresh noise makes them, from random starts."""
    (tmp_path / "plain_net.py").write_text(PLAIN_NET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(repository_root)
    options = [
        "fit", "--config=configs/digits/classifier.yaml", "--model.classifier=plain_net.PlainNet",
        "--data.purified=null", "--data.crop=0", "--data.batch_size=32", "--data.val_size=0", "--trainer.max_steps=2",
        "--trainer.callbacks=null", "--trainer.precision=64-true",
        "--trainer.accumulate_grad_batches=2", "--model.lr_reference_batch=32",
    ]  # fmt: skip
    if adversarial:
        score = f"{repository_root}/configs/score_model/digits.yaml"
        options += ["--model.adversary=PGD", f"--model.adversary.init_args={json.dumps(HOSTILE)}"]
        options += ["--model.purifier=ADBM", "--model.purifier.steps=1", f"--model.score_model={score}"]
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options += ["--trainer.logger=false"]  # the folder of each is named by its export
    output = run(repository_root, *options, f"--model.export={two}", processes=2, launcher=torchrun, path=tmp_path)
    assert output.count("processes 2 x accumulated batches 2 x images 16 = 64 images") == 1, output
    alone = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert main([*options, *alone, f"--model.export={one}"]) == 0
    one, two = load_file(one), load_file(two)
    assert one["0.weight"].dtype == torch.float64
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"]])
def test_a_batch_that_has_no_equal_shares_is_one_line(launcher, repository_root, tmp_path):
    done = started(
        repository_root, "fit", "--config=configs/digits/classifier.yaml", "--data.purified=null",
        f"--model.export={tmp_path}/net.safetensors", f"--trainer.default_root_dir={tmp_path}", processes=3,
        launcher=launcher,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert said.count("a batch of 64 images cannot be shared equally among 3 processes") == 1, said
    assert not (tmp_path / "net.safetensors").exists()


def test_the_first_of_two_processes_says_why_a_folder_is_refused(repository_root, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/manifest.json").write_text("{")
    done = started(
        repository_root, "predict", "--config=configs/digits/purify.yaml", "--data.evaluate=val", "--data.val_size=8",
        "--data.eval_batch_size=4", f"--model.output={tmp_path}/set", f"--trainer.default_root_dir={tmp_path}",
        processes=2,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "set/manifest.json" in done.stderr and "SIGTERM" not in done.stderr


def test_two_processes_certify_what_one_does(repository_root, tmp_path):
    for processes in (1, 2):
        run(
            repository_root, "certify", "--config=configs/digits/certify.yaml", "--data.test_size=5", "--model.n=30",
            "--data.eval_batch_size=2", "--model.slots=45", f"--model.output={tmp_path}/{processes}",
            processes=processes,
        )  # fmt: skip
    one, two = ([{**row, "seconds": 0} for row in read_certificates(tmp_path / str(n))[1]] for n in (1, 2))
    assert one == two and len(one) == 15
