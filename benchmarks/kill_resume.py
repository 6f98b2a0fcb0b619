"""Is a run that is killed again and again the run that was never killed? Compares what they wrote bit for bit.

    python benchmarks/kill_resume.py --kills 20                      # about four minutes on two CPU cores
    python benchmarks/kill_resume.py --kills 20 --processes 2
    python benchmarks/kill_resume.py --kills 20 --verb predict       # the purified set instead of records
    python benchmarks/kill_resume.py --kills 20 --shards 8           # commands of their own, two at a time
    python benchmarks/kill_resume.py --kills 5 -- --config my.yaml   # any `lit-pursamere test`, or `predict`

Starts a run, kills all its processes (SIGKILL) after a random time, starts it again, until it comes to its end; as
often as it takes to have killed it so many times. Shards are started in any order, some twice, and killed one by one;
which ends well is not started again unless drawn. The defaults are small runs on the digits.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lit_pursamere.data import PurifiedSet
from lit_pursamere.data.purified_checks import verify
from lit_pursamere.store import read_rows

ROOT = Path(__file__).resolve().parents[1]
FREE = ("seconds", "stored")  # what depends on when and by whom a row was made
SET = ("manifest.json", "indices.npy", "part-*")  # what leftovers would be seen among
WHAT = "rows or files"
SMALL = [
    "--config=configs/digits/robustness.yaml",
    "--model.purifier.sigmas.stride=6", "--model.attacks.gPGD20.steps=4", "--model.attacks.BPDA20-det.steps=3",
    "--model.attacks.BPDA20-det.stop_on_success=true", "--data.test_size=60", "--data.eval_batch_size=4",
    "--model.pool=24", "--model.pictures=0", "--trainer.accelerator=cpu", "--trainer.logger=false",
]  # fmt: skip
SMALL_SET = ["--config=configs/digits/purify.yaml", "--data.evaluate=val", "--data.val_size=799",
             "--data.eval_batch_size=4"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=2, help="shards that run at a time")
    parser.add_argument("--longest", type=float, default=4.0, help="longest time from the first write to a kill, s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verb", choices=["test", "predict"], default="test")
    parser.add_argument("run", nargs="*", help="arguments of the verb, after --; default: a small run on the digits")
    args = parser.parse_args()
    run = [args.verb, *(args.run or {"test": SMALL, "predict": SMALL_SET}[args.verb])]
    with tempfile.TemporaryDirectory() as place:
        folder, rng = Path(place), random.Random(args.seed)
        whole = folder / "whole"
        started = time.monotonic()
        finish(start(run, whole, 1))
        print(f"never killed: {len(pieces(whole))} {WHAT} in {time.monotonic() - started:.0f} s", flush=True)
        kills = rounds = 0
        while kills < args.kills:
            rounds += 1
            again = folder / f"again{rounds}"
            if args.shards > 1:
                times = sharded(run, again, args.shards, args.at_once, args.kills - kills, args.longest, rng)
            else:
                times = killed(run, again, args.processes, args.kills - kills, args.longest, rng)
            kills += times
            different = differences(whole, again)
            print(f"killed {times} times: {len(pieces(again))} {WHAT}, {len(different)} differ", flush=True)
            if different:
                sys.exit("\n".join(different[:10]))
    who = f"{args.shards} shards" if args.shards > 1 else f"{args.processes} process(es)"
    print(f"{kills} kills of {who} in {rounds} runs: nothing differs")


def start(run: list[str], output: Path, processes: int) -> subprocess.Popen:
    """Start a run, verb first, in a session of its own, so that all its processes can be killed together."""
    command = [
        sys.executable, "-m", "lit_pursamere", *run, f"--model.output={output}",
        f"--trainer.default_root_dir={output.parent}", f"--trainer.devices={processes}",
        "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    if processes > 1:
        command.append("--trainer.strategy=ddp")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(output.decode(errors="replace"))


def killed(run: list[str], output: Path, processes: int, kills: int, longest: float, rng: random.Random) -> int:
    """Bring a run to its end in spite of up to `kills` kills; returns how many there were.

    Args:
        run: Arguments of `lit-pursamere`, verb first.
        output: Its folder.
        processes: Processes of the run.
        kills: Kills at most; fewer if the run comes to its end before.
        longest: A kill comes up to so many seconds after the run has begun to write into its folder; every fifth one
            comes up to twice as long after its start, so mostly earlier.
        rng: Draws the times.
    """
    for count in range(kills):
        process, before = start(run, output, processes), starts(output)
        early = time.monotonic() + (rng.uniform(0, 2 * longest) if count % 5 == 4 else 3600)
        while starts(output) == before and process.poll() is None and time.monotonic() < early:
            time.sleep(0.002)
        try:
            process.wait(0 if time.monotonic() >= early else rng.uniform(0, longest))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            continue
        finish(process)
        return count
    finish(start(run, output, processes))
    return kills


def sharded(
    run: list[str], output: Path, shards: int, at_once: int, kills: int, longest: float, rng: random.Random
) -> int:
    """Bring all shards of a run to their ends in spite of up to `kills` kills; returns how many there were.

    Args:
        run: Arguments of `lit-pursamere`, verb first.
        output: Their folder.
        shards: How many there are.
        at_once: How many run at a time. The next one is any that has not ended well yet; every fifth is any at all, so
            that some are started while they run, or when they are done.
        kills: Kills at most.
        longest: A kill comes up to so many seconds after the shard has begun to write into the folder.
        rng: Draws shards and times.
    """
    left, running, due, killed = set(range(shards)), {}, {}, 0
    while left or running:
        for process, shard in list(running.items()):
            if process in due and process.poll() is None and killed < kills and owns(process, output):
                due[process] = due[process] or time.monotonic() + rng.uniform(0, longest)
                if time.monotonic() >= due[process]:
                    os.killpg(process.pid, signal.SIGKILL)
                    killed += process.wait() == -signal.SIGKILL
            if process.poll() is not None:
                del running[process]
                told = process.communicate()[0].decode(errors="replace")
                if process.returncode == 0:
                    left.discard(shard)
                elif process.returncode != -signal.SIGKILL and f"shard {shard}/{shards}) is writing to" not in told:
                    raise RuntimeError(told)
        if left and len(running) < at_once:
            waiting = sorted(left - set(running.values()))
            shard = rng.choice(waiting) if waiting and rng.random() < 0.8 else rng.randrange(shards)
            process = start([*run, f"--shard={shard}/{shards}"], output, 1)
            running[process] = shard
            if rng.random() < 0.7:
                due[process] = None
        time.sleep(0.002)
    return killed


def owns(process: subprocess.Popen, output: Path) -> bool:
    """Whether a process has begun to write into a folder, as one of several."""
    return any(f"process {process.pid} " in file.read_text() for file in output.glob(".lock-*"))


def starts(output: Path) -> int:
    """How often a run has begun to write into its folder."""
    file = output / "environment.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def pieces(output: Path) -> dict[str, object]:
    """What a run has written, by name: rows of records, or the files of a purified set, which must be whole."""
    if not (output / "indices.npy").is_file():
        rows = [{key: value for key, value in row.items() if key not in FREE} for row in read_rows(output)]
        return {f"{row['system']}/{row['attack']}/{row['index']}": row for row in rows}
    verify(PurifiedSet.open(output))
    files = [file for pattern in SET for file in output.glob(pattern)]
    return {file.name: file.read_bytes() for file in files}


def differences(one: Path, other: Path) -> list[str]:
    """Names of what is not the same in two folders."""
    a, b = pieces(one), pieces(other)
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


if __name__ == "__main__":
    main()
