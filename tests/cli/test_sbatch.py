"""An array of SLURM jobs is one shard a job, with the options as they were given; what is wrong is said before."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.cli.shards import commands
from lit_pursamere.data import PurifiedSet

OPTIONS = ["--config", "digits/purify", "--model.output", "runs/a b"]
TINY = ["--config=digits/purify", "--model.purifier=Identity", "--data.evaluate=val", "--data.val_size=8",
        "--data.eval_batch_size=4", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(*more):
    assert main(["sbatch", "predict", *OPTIONS, "--shards", "3", "--script", "deep/array.sh", *more]) == 0
    with open("deep/array.sh") as file:
        return file.read().splitlines()


def test_the_script_has_a_job_for_every_shard(tmp_path, capsys):
    lines = written("--at_once", "2", "--gpus", "0", "--slurm", "partition=gpu", "account=me")
    limits = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {"array=0-2%2", "time=240", "partition=gpu", "account=me", "requeue"} <= limits
    assert not any("gpus" in limit for limit in limits)
    assert (tmp_path / "runs/sbatch").is_dir(), "SLURM makes no folder for its logs"
    assert "next: sbatch deep/array.sh" in capsys.readouterr().out


def test_the_script_runs_every_shard(tmp_path):
    """As SLURM runs it, but for `srun` and the command, which tell what they are given."""
    written()
    for name in ("srun", "lit-pursamere"):
        file = tmp_path / name
        file.write_text('#!/bin/sh\n"$@"\n' if name == "srun" else '#!/bin/sh\nprintf "%s|" "$PWD" "$@"\n')
        file.chmod(0o755)
    for index in ("0", "2"):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": index}
        done = subprocess.run(["bash", "deep/array.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.stdout.split("|") == [str(tmp_path), "predict", *OPTIONS, "--shard", f"{index}/3", ""], done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--shards", "0"], "--shards must be at least 1; got 0"),
        (["predict", "--shard", "1/8"], "every shard gets its --shard from here"),
        (["predict", "--modle.output", "x"], "did you mean --model"),
        (["predict", "--minutes", "0"], "--minutes must be at least 1; got 0"),
        (["predict", "--slurm", "gpu"], "--slurm takes settings NAME=VALUE; got 'gpu'"),
        (["predict", "--config", "none.yaml"], "none.yaml"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(tmp_path, capsys, words, message):
    assert main(["sbatch", *words, "--script", "array.sh"]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "array.sh").exists()


def test_without_submitit_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    assert main(["sbatch", "predict", *OPTIONS]) == 1
    assert "sbatch needs submitit, the extra `slurm`" in capsys.readouterr().err


SBATCH = """#!/bin/sh
cp "$1" "$(dirname "$0")/submitted.sh"
echo Submitted batch job 4711
"""


def test_submitit_is_given_the_array(tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text(SBATCH)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main(["sbatch", "predict", *OPTIONS, "--shards", "3", "--at_once", "2", "--slurm", "account=me"]) == 0
    assert "3 shards submitted as job 4711" in capsys.readouterr().out
    script = (tmp_path / "submitted.sh").read_text()
    assert "#SBATCH --array=0-2%2" in script and "#SBATCH --account=me" in script
    import submitit

    jobs = [
        submitit.core.utils.DelayedSubmission.load(tmp_path / f"runs/sbatch/4711_{i}_submitted.pkl") for i in range(3)
    ]
    assert [job.args for job in jobs] == [(str(tmp_path), words) for words in commands("predict", OPTIONS, 3)]
    again = jobs[1].function.checkpoint(*jobs[1].args)
    assert again.args == jobs[1].args, "what is submitted again is the same shard"


@pytest.mark.slow
def test_jobs_of_submitit_purify_a_set(tmp_path, repository_root):
    """Real processes of its local executor; the last job fails, and says so."""
    submitit = pytest.importorskip("submitit")
    from lit_pursamere.cli.sbatch import submit

    words = commands("predict", [*TINY, f"--model.output={tmp_path}/set"], 2)
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=10)
    jobs = submit(executor, [*words, [*words[0][:-1], "--shard=5/2"]])
    for job in jobs[:2]:
        assert job.result() is None
    assert PurifiedSet.open(tmp_path / "set").missing() == []
    with pytest.raises(submitit.core.utils.FailedJobError, match=f"{shlex.quote(words[0][0])}.*ended with status 1"):
        jobs[2].result()
    assert "there is no shard 5/2" in jobs[2].stderr()
