"""Evaluate a defence: clean accuracy, then every configured attack, with and without the purifier.

collect batches in a pool;  for each system:  clean verdict;  for each attack:  attack the view, let the defence judge
rows per image  ->  records  ->  report.md, report.csv, figures, trackers
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_pursamere.attacks import Attack
from lit_pursamere.defense import ALONE, Defense
from lit_pursamere.defense.detectors import Detector
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.ending import command, ending
from lit_pursamere.evaluation.evaluation import UNDEFENDED, Batch, Evaluated, Evaluation, check, systems_of
from lit_pursamere.evaluation.recording import RecordedEvaluation
from lit_pursamere.progress import Progress
from lit_pursamere.purifiers import Purifier, PurSAMERE
from lit_pursamere.purifiers.base import Knowledge, Recipe, complete, equipped
from lit_pursamere.report import SEMANTICS, Report, as_markdown, make_report, save_report
from lit_pursamere.report.accuracy_figures import accuracy_figure
from lit_pursamere.report.drawing import beside, save_figure
from lit_pursamere.report.headline import headline
from lit_pursamere.report.lines import WORST
from lit_pursamere.report.pictures import picture_grid, trajectory_figure
from lit_pursamere.seeding import forked_randomness, run_seed
from lit_pursamere.store import Records
from lit_pursamere.store.gallery import Gallery
from lit_pursamere.store.images import ImageStore
from lit_pursamere.store.records import CLEAN
from lit_pursamere.tasks.folder_task import FolderTask
from lit_pursamere.tasks.tracking import log_figure, log_table
from lit_pursamere.threat import ThreatModel
from lit_pursamere.weights import state_digest

__all__ = ["LitRobustness"]


class LitRobustness(FolderTask):
    """Test steps that attack a defence and record a verdict per image.

    Args:
        purifier: The purifier of the defence; one that lacks its score model gets `score_model`.
        classifier: Network from images (B, C, H, W) in [0, 1] to logits (B, K), with its weights (`weights.trained`).
        attacks: Attacks by name; the name is the column of the table.
        threat: What attackers may change who name no threat model of their own.
        score_model: Given to purifier, surrogate and detector, unless they bring their own.
        noise: What attackers know of the purifier's noise, see `Purifier.under`: `fresh`, `fixed`, `forward`, or of how
            many tables one is used. None: as in the purifier's paper.
        output: Folder of records, report and figures. Running again continues there.
        undefended: Whether to evaluate the classifier without the purifier as well, for contrast.
        evaluations: How often each verdict is given. More than once for a stochastic defence: then the table shows the
            mean, and beside it the images that are right every time (worst) and most of the time (vote).
        success: Which verdict is the headline of the protocol that is followed, one of `report.SEMANTICS`: at the last
            iterate or at any; the mean over evaluations, or right every time (`worst`) or most of the time (`vote`);
            rejected attacked images wrong, or right (`or rejected`).
        ensemble: How many purified copies of an image make one answer (ADP: 10), and how.
        surrogate: Purifier that attackers with the view `surrogate` differentiate instead, say one of fewer steps.
        detector: Rejects images before they are purified; calibrated here if need be.
        calibrate_on: The images that calibrate it: those held out for validation, or, as MALADE's paper does, the
            very images that are tested.
        pictures: Images in the picture grid (0: none).
        pool: Images that are gathered before they are evaluated, at most. Changes no result; the larger it is, the
            longer images that are done make room for others.
        save_images: Whether to keep the adversarial images, exactly; `lit-pursamere reverify` judges them again.
        preflight: Whether the command line looks at a few images before it begins, and says what seems wrong.

    An attack with view `gray` does not see the defence while it runs, so only its last iterate is judged. Others
    are judged at the last iterate (`last`) and at the first one that fooled the view (`any`).
    """

    records: Records  # from `open` on
    gallery: Gallery
    headlines = ("robustness/clean", "robustness/worst_case")
    evaluation: RecordedEvaluation

    def __init__(
        self,
        purifier: Purifier | Recipe,
        classifier: nn.Module,
        attacks: dict[str, Attack],
        threat: ThreatModel | None = None,
        score_model: ScoreModel | None = None,
        noise: Knowledge | None = None,
        output: str = "runs/robustness",
        undefended: bool = True,
        evaluations: int = 1,
        success: str = "any",
        ensemble: Ensemble = ALONE,
        surrogate: Purifier | Recipe | None = None,
        detector: Detector | Callable[[ScoreModel], Detector] | None = None,
        calibrate_on: Literal["val", "test"] = "val",
        pictures: int = 6,
        pool: int = 1024,
        save_images: bool = False,
        preflight: bool = True,
    ) -> None:
        super().__init__(output)
        if evaluations < 1:
            raise ValueError(f"LitRobustness needs evaluations >= 1; got {evaluations}")
        if pictures < 0:
            raise ValueError(f"LitRobustness needs pictures >= 0; got {pictures}")
        if pool < 1:
            raise ValueError(f"LitRobustness needs a pool of at least 1 image; got {pool}")
        if success not in SEMANTICS:
            raise ValueError(f"success must be one of {', '.join(SEMANTICS)}; got {success!r}")
        if calibrate_on not in ("val", "test"):
            raise ValueError(f"calibrate_on must be 'val' or 'test'; got {calibrate_on!r}")
        attacks = {name: within(name, attack, threat) for name, attack in attacks.items()}
        purifier = complete(purifier, score_model, noise)
        surrogate = surrogate and complete(surrogate, score_model, noise)
        detector = detector and equipped(detector, score_model)
        defense = Defense(purifier, classifier, ensemble, surrogate, detector)
        check(defense, attacks)
        self.systems: Any = nn.ModuleDict(systems_of(defense, undefended))  # for torch all are mere modules
        self.attacks, self.pictures, self.calibrate_on = dict(attacks), pictures, calibrate_on
        self.evaluations, self.success, self.pool, self.save_images = evaluations, success, pool, save_images
        self.preflight = preflight
        self.waiting: list[Batch] = []
        self.pictured: list[int] = []  # positions of the images in the grid: the first ones
        self.drawn = True  # whether no image of the grid is newer than the grid

    def manifest(self) -> dict[str, object]:
        """What decides the verdicts; a folder of records belongs to exactly one of these."""
        data = self.data
        return {
            "data": data.images_name,
            "images": data.evaluated(),
            "systems": {name: defense.description for name, defense in self.systems.items()},
            "defenses": {name: defense.settings for name, defense in self.systems.items()},
            "weights": {name: state_digest(defense) for name, defense in self.systems.items()},
            "attacks": {name: attack.settings for name, attack in self.attacks.items()},
            "evaluations": self.evaluations,
            "success": self.success,
            "seed": run_seed(),
            "slots": data.eval_batch_size,
            "precision": str(self.trainer.precision),
            **({} if self.detector is None else {"threshold": self.detector.threshold}),
        }

    @property
    def detector(self) -> Detector | None:
        """That of the defence."""
        return next(iter(self.systems.values())).detector

    def calibrate(self) -> None:
        """Find the detector's threshold if it lacks one, on the same images in the same way on every process."""
        if self.detector is None or self.detector.calibrated:
            return
        data = self.data
        if self.calibrate_on == "val":
            images = data.validation_images()
        else:
            source = data.sources["test" if data.evaluate == "test" else "train"]
            images = torch.stack([source[index][0] for index in data.test_indices()])
        self.detector.calibrate(images.to(self.device), data.eval_batch_size)

    def on_test_start(self) -> None:
        images = self.require_whole_test()
        self.calibrate()
        self.open_in_turn()
        slots = self.data.eval_batch_size
        name, systems = self.data.name, dict(self.systems.items())
        rows = images * len(systems) * (1 + len(self.attacks))
        self.evaluation = RecordedEvaluation(
            Evaluation(systems, self.attacks, name, slots, self.evaluations, run_seed()),
            self.records,
            Progress("test", "verdict", rows, not self.visible, steady=False),
            ImageStore(self.output, self.number) if self.save_images else None,
            self._keep,
        )

    def open(self) -> None:
        self.folder = self.records = Records(self.output, self.manifest(), self.number, self.data.shard)
        self.gallery = Gallery(self.output)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        if self.waiting and sum(len(y) for _, y, _ in self.waiting) + len(batch[1]) > self.pool:
            self._evaluate_pool()
        self.waiting.append(batch)
        if not self.pictured:
            self.pictured = batch[2][: self.pictures].tolist()

    def on_test_epoch_end(self) -> None:
        if self.waiting:
            with self.trainer.precision_plugin.test_step_context():  # as in test_step
                self._evaluate_pool()
        self.evaluation.progress.close()
        self.trainer.strategy.barrier("records written")
        if self.trainer.is_global_zero:
            report = make_report([self.output])
            if self.data.shard and (left := self.unfinished(report)):
                done = f"{report.runs[0].images - len(left)} of {report.runs[0].images} images judged in {self.output}"
                chunks = [place // self.data.eval_batch_size for place in left]
                return self.print(self.left_to_others(chunks, done, command("report", self.output)))
            save_report(report, self.output)
            self.print(f"\n{as_markdown(report)}\n{self.ending(report)}")
            self._track(report)

    def unfinished(self, report: Report) -> list[int]:
        """Which of all images lack a verdict, by their places in the order of `test_indices`."""
        found = Counter(row["index"] for row in report.runs[0].rows)
        wanted = len(self.systems) * (1 + len(self.attacks))
        return [place for place, index in enumerate(self.data.test_indices()) if found[index] < wanted]

    def ending(self, report: Report) -> str:
        """What was made, how robust the defence is, and how to ask whether the attacks were strong enough."""
        file = self.output / "config.yaml"
        then = command("audit", "--config", file) if file.is_file() else command("report", self.output)
        return ending(f"records, tables and pictures in {self.output}", headline(report), then)

    def _track(self, report: Report) -> None:
        """Log accuracies by the headline semantics: `robustness/ATTACK` of the defence, `undefended/ATTACK`."""
        prefixes = {system: UNDEFENDED if system == UNDEFENDED else "robustness" for system in self.systems}
        lines = [line for line in report.lines if line.attack in (CLEAN, *self.attacks, WORST)]
        for line in lines:
            name = f"{prefixes[line.system]}/{line.attack.replace(' ', '_')}"
            with beside(name):
                self.log(name, line.headline.value, rank_zero_only=True)
        if self.trainer.loggers:
            rows = [(line.system, line.attack, line.headline.value, *line.headline.interval, line.headline.n)
                    for line in lines]  # fmt: skip
            log_table(self.trainer, "robustness", ("system", "attack", "accuracy", "low", "high", "n"), rows)
            with beside("figure of the accuracies"):
                log_figure(self.trainer, "robustness", accuracy_figure(report))

    def _evaluate_pool(self) -> None:
        """Complete the rows of all images that wait, for every system and attack."""
        batches, self.waiting = self.waiting, []
        for system in self.systems:
            for attack in (CLEAN, *self.attacks):
                for _ in self.evaluation.complete(system, attack, batches):
                    pass
        with beside("pictures.png"):
            self._show(batches)

    def _keep(self, system: str, attack: str, part: Evaluated) -> None:
        """Keep what the pictures show: what the last configured attack does to the defence."""
        numbers, shown = part.batch[2].tolist(), [next(iter(self.systems)), *[*self.attacks][-1:]]
        chosen = [place for place, number in enumerate(numbers) if number in self.pictured]
        if [system, attack] == shown and chosen and not self.number:
            self.gallery.add([numbers[place] for place in chosen], part.last[chosen])
            self.drawn = False

    def _show(self, batches: list[Batch]) -> None:
        """Draw the pictures, where there are new ones or a file is missing, of images that are among these."""
        x, y, index = (torch.cat(column) for column in zip(*batches, strict=True))
        known = [number in self.pictured and number in self.gallery.images for number in index.tolist()]
        if not self.number and any(known) and not (self.drawn and self.pictures_there()):
            chosen = torch.tensor(known).nonzero().flatten().to(x.device)
            x, y, numbers = x[chosen], y[chosen], index.to(x.device)[chosen].tolist()
            with beside("pictures.png"), forked_randomness(run_seed(), "pictures"):
                self._draw(x, y, self.gallery.get(numbers, x))
            self.drawn = True

    def pictures_there(self) -> bool:
        """Whether the folder has the pictures that it should have."""
        if not self.pictures:
            return True
        levels = isinstance(next(iter(self.systems.values())).purifier, PurSAMERE)
        names = ("pictures", "levels") if levels else ("pictures",)
        return all((self.output / f"{name}.png").is_file() for name in names)

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
        names = self.data.class_names
        figures = {"pictures": picture_grid(x, attacked, purified, y, predictions, names)}
        if trajectory is not None:
            figures["levels"] = trajectory_figure(trajectory)
        for name, figure in figures.items():
            with beside(f"{name}.png"):
                save_figure(figure, self.output / f"{name}.png")
            log_figure(self.trainer, name, figure)


def within(name: str, attack: Attack, threat: ThreatModel | None) -> Attack:
    """The attack of this name within a threat model: its own, or else that of the test."""
    found = attack if threat is None else attack.within(threat)
    if found.threat is None:
        raise ValueError(
            f"the attack {name} names no threat model, and neither does the test: give it as `model.threat`, such as "
            "{norm: linf, eps: 8/255}"
        )
    return found
