"""Certify a smoothed classifier: within which l2 ball of each image no attack changes its class.

for each image and noise level:  n0 draws choose the class, n others bound its probability  ->  a row
rows  ->  certified accuracy over the radius: certified.md, certified.csv, certified.png, trackers
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.ending import command, ending
from lit_pursamere.evaluation.certification import Certification
from lit_pursamere.evaluation.evaluation import Batch
from lit_pursamere.progress import Progress
from lit_pursamere.purifiers import DenoisedSmoothing, Purifier
from lit_pursamere.purifiers.base import Recipe, complete
from lit_pursamere.purifiers.smoothing import SmoothedPurifier
from lit_pursamere.report.certified import Certified, read_certified
from lit_pursamere.report.certified_table import as_markdown, save_certified
from lit_pursamere.report.drawing import beside
from lit_pursamere.seeding import run_seed
from lit_pursamere.store.certificates import Certificates
from lit_pursamere.tasks.folder_task import FolderTask
from lit_pursamere.weights import state_digest

__all__ = ["LitCertification"]


class LitCertification(FolderTask):
    """Test steps that certify images, and record a certificate per image and noise level.

    What is certified is the smoothed classifier: the class that the classifier most often gives to the image with
    Gaussian noise, taken off again. `test` attacks it, with the same purifier and an ensemble of votes.

    Args:
        classifier: Network from images (B, C, H, W) in [0, 1] to logits (B, K), with its weights (`weights.trained`).
        sigma: Standard deviation of the noise in pixel units, in [0, 1]; or several, each certified by itself.
        score_model: Takes the noise off in one step (`DenoisedSmoothing`); or what a purifier is built around.
        purifier: Purifies the noisy image instead (`SmoothedPurifier`); one that lacks its score model gets
            `score_model`.
        n0: Draws that choose the class of an image (paper: 100).
        n: Draws that bound its probability (paper: 100,000).
        alpha: Probability that the certificate of an image is wrong (paper: 0.001).
        output: Folder of certificates, tables and figure. Running again continues there.
        slots: Draws per forward pass (None: `data.eval_batch_size`, of which shards and processes get whole batches of
            images each).

    Raises:
        ValueError: If a number is out of range, a noise level is given twice or is none that the score model knows, or
            there is nothing that takes the noise off, or more than one.
    """

    headlines = ("certified/clean",)
    attacks: dict[str, Any] = {}  # none: what is certified holds against all
    certificates: Certificates  # from `open` on

    def __init__(
        self,
        classifier: nn.Module,
        sigma: float | list[float] = 0.25,
        score_model: ScoreModel | None = None,
        purifier: Purifier | Recipe | None = None,
        n0: int = 100,
        n: int = 10_000,
        alpha: float = 0.001,
        output: str = "runs/certify",
        slots: int | None = None,
    ) -> None:
        super().__init__(output)
        if slots is not None and slots < 1:
            raise ValueError(f"LitCertification needs slots of at least 1 draw; got {slots}")
        self.slots = slots
        self.sigmas = [float(level) for level in (sigma if isinstance(sigma, list) else [sigma])]
        if not self.sigmas or len({*self.sigmas}) < len(self.sigmas):
            raise ValueError(f"sigma must be a number, or several different ones; got {sigma}")
        self.certification = Certification(n0, n, alpha)
        smoothings = [smoothing(level, score_model, purifier) for level in self.sigmas]
        self.defenses = nn.ModuleList(Defense(one, classifier) for one in smoothings)
        self.progress = Progress("certify", "certificate", hidden=True)

    @property
    def systems(self) -> dict[str, Any]:
        """The smoothed classifiers by their noise levels."""
        return {f"sigma {level:g}": one for level, one in zip(self.sigmas, self.defenses, strict=True)}

    def manifest(self) -> dict[str, object]:
        """What decides the certificates; a folder of them belongs to exactly one of these."""
        data, asked = self.data, self.certification
        return {
            "data": data.images_name,
            "images": data.evaluated(),
            "systems": {name: defense.description for name, defense in self.systems.items()},
            "defenses": {name: defense.settings for name, defense in self.systems.items()},
            "weights": state_digest(self.defenses),
            "certification": {"sigmas": self.sigmas, "n0": asked.n0, "n": asked.n, "alpha": asked.alpha},
            "seed": run_seed(),
            "slots": self.slots or data.eval_batch_size,
            "precision": str(self.trainer.precision),
        }

    def on_test_start(self) -> None:
        rows = self.require_whole_test() * len(self.sigmas)
        self.open_in_turn()
        self.progress = Progress("certify", "certificate", rows, not self.visible)

    def open(self) -> None:
        self.folder = self.certificates = Certificates(self.output, self.manifest(), self.number, self.data.shard)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        x, y, index = batch
        for place, (label, number) in enumerate(zip(y.tolist(), index.tolist(), strict=True)):
            for sigma, defense in zip(self.sigmas, self.defenses, strict=True):
                known = (sigma, number) in self.certificates.rows
                if not known:
                    self._certify(sigma, defense, x[place : place + 1], label, number)
                self.progress.advance(1, skipped=known)

    def _certify(self, sigma: float, defense: Any, x: Tensor, label: int, number: int) -> None:
        since, slots = time.monotonic(), self.slots or self.data.eval_batch_size
        found = self.certification.certify(defense, sigma, x, number, run_seed(), slots)
        row = {"dataset": self.data.name, "sigma": sigma, "index": number, "label": label, **asdict(found)}
        self.certificates.append([{**row, "seconds": round(time.monotonic() - since, 4), "seed": run_seed()}])

    def on_test_epoch_end(self) -> None:
        self.progress.close()
        self.trainer.strategy.barrier("certificates written")
        if not self.trainer.is_global_zero:
            return
        certified = read_certified(self.output)
        if self.data.shard and (left := self.unfinished(certified)):
            done = f"{certified.images - len(left)} of {certified.images} images certified in {self.output}"
            chunks = [place // self.data.eval_batch_size for place in left]
            return self.print(self.left_to_others(chunks, done, command("report", self.output)))
        save_certified([certified], [], self.output)
        made = f"certificates, tables and a figure in {self.output}"
        self.print(f"\n{as_markdown([certified])}\n{ending(made, certified.headline, self.next_command())}")
        for sigma in certified.sigmas:
            several = f" sigma {sigma:g}" if len(certified.sigmas) > 1 else ""
            for name, accuracy in (("clean", certified.clean(sigma)), ("any_radius", certified.accuracy(sigma, 0.0))):
                with beside(f"certified/{name}"):
                    self.log(f"certified/{name}{several}", accuracy.value, rank_zero_only=True)

    def unfinished(self, certified: Certified) -> list[int]:
        """Which of all images lack a certificate, by their places in the order of `test_indices`."""
        known = {(row["sigma"], row["index"]) for row in certified.rows}
        indices = self.data.test_indices()
        return [place for place, index in enumerate(indices) if any((s, index) not in known for s in self.sigmas)]

    def next_command(self) -> str:
        """What puts attacks beside the certificates."""
        return command("report", self.output, "ATTACKED")


def smoothing(
    sigma: float, score_model: ScoreModel | None, purifier: Purifier | Recipe | None
) -> DenoisedSmoothing | SmoothedPurifier:
    """Noise of one level, and the one thing that takes it off again.

    Raises:
        ValueError: If there is none, or two.
    """
    if purifier is None:
        if score_model is None:
            raise ValueError("nothing takes the noise off: name a `model.score_model`, or a `model.purifier`")
        return DenoisedSmoothing(score_model, sigma)
    if isinstance(purifier, Purifier) and score_model is not None:
        raise ValueError(
            f"what takes the noise off is told twice: {type(purifier).__name__} needs no score model of the test; "
            "leave out `model.score_model`, or `model.purifier` for one step of the score model"
        )
    return SmoothedPurifier(complete(purifier, score_model), sigma)
