"""Is a run that is killed again and again the run that was never killed? Compares their records bit for bit.

    python benchmarks/kill_resume.py --kills 20                      # about four minutes on two CPU cores
    python benchmarks/kill_resume.py --kills 20 --processes 2
    python benchmarks/kill_resume.py --kills 5 -- --config my.yaml   # any `lit-pursamere test`

Starts a test, kills all its processes (SIGKILL) after a random time, starts it again, until it comes to its end; as
often as it takes to have killed it so many times. The default is a small test on the digits.
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

from lit_pursamere.results import read_rows

ROOT = Path(__file__).resolve().parents[1]
FREE = ("seconds", "stored")  # what depends on when and by whom a row was made
SMALL = [
    "--config=configs/digits/robustness.yaml", "--model.checkpoint=checkpoints/digits/classifier.safetensors",
    "--model.purifier.sigmas.stride=6", "--model.attacks.gPGD20.steps=4", "--model.attacks.BPDA20-det.steps=3",
    "--model.attacks.BPDA20-det.stop_on_success=true", "--data.test_size=60", "--data.eval_batch_size=4",
    "--model.pool=24", "--model.pictures=0", "--trainer.accelerator=cpu", "--trainer.logger=false",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--longest", type=float, default=4.0, help="longest time from the first write to a kill, s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("test", nargs="*", default=SMALL, help="arguments of `lit-pursamere test`, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, rng = Path(place), random.Random(args.seed)
        whole = folder / "whole"
        started = time.monotonic()
        finish(start(args.test, whole, 1))
        print(f"never killed: {len(read_rows(whole))} rows in {time.monotonic() - started:.0f} s", flush=True)
        kills = rounds = 0
        while kills < args.kills:
            rounds += 1
            again = folder / f"again{rounds}"
            times = killed(args.test, again, args.processes, args.kills - kills, args.longest, rng)
            kills += times
            different = differences(whole, again)
            print(f"killed {times} times: {len(read_rows(again))} rows, {len(different)} differ", flush=True)
            if different:
                sys.exit("\n".join(different[:10]))
    print(f"{kills} kills of {args.processes} process(es) in {rounds} runs: records are the same")


def start(test: list[str], output: Path, processes: int) -> subprocess.Popen:
    """Start a test in a session of its own, so that all its processes can be killed together."""
    command = [
        sys.executable, "-m", "lit_pursamere", "test", *test, f"--model.output={output}",
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


def killed(test: list[str], output: Path, processes: int, kills: int, longest: float, rng: random.Random) -> int:
    """Run a test to its end in spite of up to `kills` kills; returns how many there were.

    Args:
        test: Arguments of `lit-pursamere test`.
        output: Its folder.
        processes: Processes of the test.
        kills: Kills at most; fewer if the test comes to its end before.
        longest: A kill comes up to so many seconds after the test has begun to write into its folder; every fifth one
            comes up to twice as long after its start, so mostly earlier.
        rng: Draws the times.
    """
    for count in range(kills):
        process, before = start(test, output, processes), starts(output)
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
    finish(start(test, output, processes))
    return kills


def starts(output: Path) -> int:
    """How often a test has begun to write into its folder."""
    file = output / "environment.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def differences(one: Path, other: Path) -> list[str]:
    """Rows that are not the same in two folders, as text."""
    found = [[{key: value for key, value in row.items() if key not in FREE} for row in read_rows(folder)]
             for folder in (one, other)]  # fmt: skip
    if len(found[0]) != len(found[1]):
        return [f"{len(found[0])} rows in {one}, {len(found[1])} in {other}"]
    return [f"{a}\n{b}" for a, b in zip(*found, strict=True) if a != b]


if __name__ == "__main__":
    main()
