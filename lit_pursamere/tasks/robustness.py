"""Evaluate a defence: clean accuracy, then every configured attack, with and without the purifier.

for each batch and system:  clean verdict;  for each attack:  attack the view, then let the defence judge
rows per image  ->  records  ->  report.md, report.csv, figures, TensorBoard
"""

from __future__ import annotations

import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics import MeanMetric
from tqdm import tqdm

from lit_pursamere.attacks import Attack, Outcome
from lit_pursamere.data import ShardSampler
from lit_pursamere.defense import Defense
from lit_pursamere.purifiers import Identity, Purifier, PurSAMERE
from lit_pursamere.results import SEMANTICS, Records, write_report
from lit_pursamere.results.figures import picture_grid, trajectory_figure
from lit_pursamere.weights import load_weights, state_digest

__all__ = ["LitRobustness"]

UNDEFENDED = "undefended"


class LitRobustness(pl.LightningModule):
    """Test steps that attack a defence and record a verdict per image.

    Args:
        purifier: The purifier of the defence.
        classifier: Network from images (B, C, H, W) in [0, 1] to logits (B, K).
        attacks: Attacks by name; the name is the column of the table.
        checkpoint: Weight file of the classifier, see `weights.load_weights` (None: as it is).
        output: Folder of records, report and figures. Running again continues there.
        undefended: Whether to evaluate the classifier without the purifier as well, for contrast.
        evaluations: How often each verdict is given. More than once for a stochastic defence: then the table shows the
            mean, and beside it the images that are right every time (worst) and most of the time (vote).
        success: Which verdict is the headline of the protocol that is followed, one of `results.SEMANTICS`: at the last
            iterate or at any; the mean over evaluations, or right every time (`worst`) or most of the time (`vote`).
        pictures: Images in the picture grid (0: none).

    An attack with view `gray` does not see the defence while it runs, so only its last iterate is judged. Others
    are judged at the last iterate (`last`) and at the first one that fooled the view (`any`).
    """

    def __init__(
        self,
        purifier: Purifier,
        classifier: nn.Module,
        attacks: dict[str, Attack],
        checkpoint: str | None = None,
        output: str = "runs/robustness",
        undefended: bool = True,
        evaluations: int = 1,
        success: str = "any",
        pictures: int = 6,
    ) -> None:
        super().__init__()
        if evaluations < 1:
            raise ValueError(f"LitRobustness needs evaluations >= 1; got {evaluations}")
        if success not in SEMANTICS:
            raise ValueError(f"success must be one of {', '.join(SEMANTICS)}; got {success!r}")
        if "clean" in attacks:
            raise ValueError("an attack cannot be named 'clean'; the clean verdict is always part of a test")
        if checkpoint is not None:
            load_weights(classifier, checkpoint)
        self.systems = nn.ModuleDict({type(purifier).__name__: Defense(purifier, classifier)})
        if undefended and not isinstance(purifier, Identity):
            self.systems[UNDEFENDED] = Defense(Identity(), classifier)
        self.attacks, self.output, self.pictures = dict(attacks), Path(output), pictures
        self.evaluations, self.success = evaluations, success
        self.columns = [(s, a, k) for s in self.systems for a in ("clean", *attacks) for k in ("last", "any")]
        self.accuracies = nn.ModuleList([MeanMetric(nan_strategy="disable") for _ in self.columns])
        self.records: Records | None = None
        self.shown: tuple[Tensor, Tensor, Tensor] | None = None  # images, labels and attacked images of the grid

    def manifest(self) -> dict[str, object]:
        """What decides the verdicts; a folder of records belongs to exactly one of these."""
        data = self.trainer.datamodule
        return {
            "data": f"{data.name}, {data.evaluate} images",
            "systems": {name: str(defense.purifier) for name, defense in self.systems.items()},
            "weights": {name: state_digest(defense) for name, defense in self.systems.items()},
            "attacks": {name: repr(attack) for name, attack in self.attacks.items()},
            "evaluations": self.evaluations,
            "success": self.success,
        }

    def on_test_start(self) -> None:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("attacks need gradients: use Trainer(inference_mode=False), as the command line does")
        loader = self.trainer.test_dataloaders
        if self.trainer.world_size > 1 and not isinstance(loader.sampler, ShardSampler):
            raise RuntimeError(
                "the test loader would repeat images to even out the processes, which falsifies accuracies: use "
                "Trainer(use_distributed_sampler=False), as the command line does, and a loader with a ShardSampler"
            )
        if self.trainer.is_global_zero:  # writes the manifest that the other processes then compare with
            self.records = Records(self.output, self.manifest(), 0)
        self.trainer.strategy.barrier("records opened")
        if self.records is None:
            self.records = Records(self.output, self.manifest(), self.trainer.global_rank)

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        x, y, index = batch
        for system in self.systems:
            for attack in ("clean", *self.attacks):
                self._stop_if_told()
                done = [self.records.get(system, attack, i) is not None for i in index.tolist()]
                todo = torch.nonzero(~torch.tensor(done)).flatten().to(x.device)
                if len(todo):
                    self.records.append(self._evaluate(system, attack, x[todo], y[todo], index[todo], batch_idx))
                self._count(system, attack, index.tolist())
        if batch_idx == 0 and self.shown is not None and self.trainer.is_global_zero:
            self._draw(*self.shown)

    def _stop_if_told(self) -> None:
        if self.trainer.received_sigterm:  # Lightning only notes the signal, and would run on to the end
            raise SystemExit("stopped by SIGTERM; the same command continues")

    def _count(self, system: str, attack: str, indices: list[int]) -> None:
        rows = [self.records.get(system, attack, index) for index in indices]
        for kind in ("last", "any"):
            correct = [row[f"votes_{kind}"] / self.evaluations for row in rows if row[f"votes_{kind}"] is not None]
            if correct:
                meter = self.accuracies[self.columns.index((system, attack, kind))]
                meter.update(torch.tensor(correct, device=self.device))
                self.log(f"test/{system}/{attack}/{kind}", meter)

    def _evaluate(self, system: str, name: str, x: Tensor, y: Tensor, index: Tensor, batch_idx: int) -> list[dict]:
        """Attack and judge images; one row per image."""
        defense, started = self.systems[system], time.monotonic()
        if name == "clean":
            outcome, judged_any, distance = Outcome(x, x), False, torch.zeros(len(x))
        else:
            attack = self.attacks[name]
            view = defense.view(attack.gradient)
            outcome = self._attack(attack, f"{system} {name}, batch {batch_idx + 1}", view, x, y)
            judged_any = attack.gradient != "gray" or isinstance(defense.purifier, Identity)
            if batch_idx == 0 and self.pictures and (system, name) == (next(iter(self.systems)), [*self.attacks][-1]):
                self.shown = x[: self.pictures], y[: self.pictures], outcome.last[: self.pictures]
            distance = attack.threat.distance(outcome.last, x)
        with torch.no_grad():
            prediction, last = self._judge(defense, outcome.last, y)
            worst = self._judge_any(defense, outcome, last, y) if judged_any else None
        seconds = round((time.monotonic() - started) / len(x), 4)
        return [
            {
                "system": system,
                "attack": name,
                "index": int(index[i]),
                "label": int(y[i]),
                "prediction": int(prediction[i]),
                "evaluations": self.evaluations,
                "votes_last": int(last[i]),
                "votes_any": None if worst is None else int(worst[i]),
                "distance": round(float(distance[i]), 6),
                "seconds": seconds,
            }
            for i in range(len(x))
        ]

    def _attack(self, attack: Attack, title: str, view: nn.Module, x: Tensor, y: Tensor) -> Outcome:
        hidden = not self.trainer.is_global_zero or self.trainer.progress_bar_callback is None
        with tqdm(desc=title, position=1, leave=False, unit="step", disable=hidden or None) as bar:

            def progress(done: int, total: int) -> None:
                self._stop_if_told()
                bar.total = total
                bar.update(done - bar.n)

            return attack(view, x, y, progress)

    def _judge(self, defense: Defense, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The first prediction for every image, and how many of the evaluations were right, both (B,)."""
        predictions = torch.stack([defense(images).argmax(1) for _ in range(self.evaluations)])
        return predictions[0], (predictions == y).sum(0)

    def _judge_any(self, defense: Defense, outcome: Outcome, last: Tensor, y: Tensor) -> Tensor:
        """Right evaluations at the worse of both candidates; purifies only those that differ from the last iterate."""
        votes = last.clone()
        differs = (outcome.any != outcome.last).flatten(1).any(1) & (last > 0)
        if differs.any():
            votes[differs] = torch.minimum(last[differs], self._judge(defense, outcome.any[differs], y[differs])[1])
        return votes

    def on_test_epoch_end(self) -> None:
        self.trainer.strategy.barrier("records written")
        if self.trainer.is_global_zero:
            table = write_report(self.output)
            self.print(f"\n{table}\nAccuracy in % with 95 % intervals; records, tables and pictures in {self.output}")

    def _draw(self, x: Tensor, y: Tensor, attacked: Tensor) -> None:
        """Pictures of the last configured attack on the defence, and R and the distance at every level."""
        defense, trajectory = next(iter(self.systems.values())), None
        with torch.no_grad():
            if isinstance(defense.purifier, PurSAMERE):
                purified, trajectory = defense.purifier.trajectory(attacked)
            else:
                purified = defense.purifier(attacked)
            predictions = {
                "clean": defense.classifier(x).argmax(1),
                "attacked": defense.classifier(attacked).argmax(1),
                "purified": defense.classifier(purified).argmax(1),
            }
        names = self.trainer.datamodule.class_names
        figures = {"pictures": picture_grid(x, attacked, purified, y, predictions, names)}
        if trajectory is not None:
            figures["levels"] = trajectory_figure(trajectory)
        for name, figure in figures.items():
            figure.savefig(self.output / f"{name}.png", bbox_inches="tight")
            if isinstance(self.logger, TensorBoardLogger):
                self.logger.experiment.add_figure(f"test/{name}", figure, close=False)
