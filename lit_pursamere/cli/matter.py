"""What of a configuration is mostly changed, verb by verb, and how that is told on one screen."""

from __future__ import annotations

__all__ = ["CLASSES", "MATTER", "PARTS", "SAID"]

CLASSES = {  # whose arguments stand behind which word
    "LitRobustness": "model", "LitPurification": "model", "LitScoreModel": "model", "LitClassifier": "model",
    "LitCertification": "model", "ImageDataModule": "data", "Checklist": "audit", "Estimate": "estimate",
    "Confidence": "walk",
}  # fmt: skip
RUNS = ("trainer.accelerator", "trainer.devices", "trainer.precision")
DEFENCE = ("purifier", "score_model", "classifier", "noise")
SMOOTHED = ("sigma", "score_model", "purifier", "classifier")
MATTER = {  # of the verbs of a configuration: what of it is mostly changed
    "fit": (
        "config", "LitScoreModel.score_model", "LitClassifier.classifier", "LitScoreModel.export", "data",
        "ImageDataModule.batch_size", "ImageDataModule.val_size", "ImageDataModule.purified", "trainer.max_epochs",
        "trainer.max_steps", *RUNS, "ckpt_path", "seed_everything",
    ),
    "validate": ("config", "ckpt_path", "data", "ImageDataModule.val_size", "ImageDataModule.eval_batch_size", *RUNS),
    "predict": (
        "config", *(f"LitPurification.{name}" for name in (*DEFENCE, "output", "dtype")), "data",
        "ImageDataModule.evaluate", "ImageDataModule.eval_batch_size", *RUNS, "seed_everything", "shard",
    ),
    "test": (
        "config", *(f"LitRobustness.{name}" for name in (*DEFENCE, "attacks", "threat", "evaluations", "output")),
        "data", "ImageDataModule.test_size", "ImageDataModule.eval_batch_size", *RUNS, "seed_everything", "shard",
    ),
    "certify": (
        "config", *(f"LitCertification.{name}" for name in (*SMOOTHED, "n0", "n", "alpha", "output")), "data",
        "ImageDataModule.test_size", "ImageDataModule.eval_batch_size", *RUNS,
        "seed_everything", "shard",
    ),
    "estimate": ("config", "Estimate.devices", "Estimate.measure", "trainer.accelerator", "trainer.precision"),
    "audit": (
        "config", "audit", *(f"Checklist.{name}" for name in ("attack", "images", "output", "queries", "checks")),
        "trainer.accelerator",
    ),
    "walk": (
        "config", "walk", "Confidence.attack", "Confidence.broken", "ImageDataModule.test_size",
        *(f"LitRobustness.{name}" for name in (*DEFENCE, "surrogate", "attacks", "threat", "output")),
        "trainer.accelerator", "seed_everything",
    ),
}  # fmt: skip
SAID = {  # what no docstring says, or what is to be typed rather than what it is
    "config": "File, or name of one that comes with the package; may be given again.",
    "data": "Name, file or class of the data set: digits, cifar10, folder, npz ...",
    "model.purifier": "Name, file or class: pursamere, adp, diffpure, Identity ...",
    "model.score_model": "Name, file or class: digits, cifar10/edm (`weights list`) ...",
    "model.classifier": "The same; its weights: --model.classifier.checkpoint FILE.",
    "model.noise": "What is known of its noise: fresh, fixed, forward, or a number of tables.",
    "model.attacks": "File of attacks by name; one more: --model.attacks.NAME pgd20_exact.",
    "model.threat": "What attackers may change: --model.threat.norm linf, .eps 8/255.",
    "audit": "What is asked: Checklist (the default), Similarity, Landscape or Directions.",
    "walk": "What is looked at: Confidence (the default), Strips, or ReconstructionErrors.",
    "ckpt_path": "Checkpoint to start from.",
    "seed_everything": "Seed of all that is drawn.",
    "shard": "Do one part of so many, from 0/8 to 7/8; those of a folder complete each other.",
    "trainer.accelerator": "cpu, gpu, or auto: a GPU where there is one.",
    "trainer.devices": "How many processes or GPUs (default: all GPUs, or one process).",
    "trainer.precision": "32-true, bf16-mixed, 16-mixed, 64-true.",
    "trainer.max_epochs": "Epochs after which the training ends.",
    "trainer.max_steps": "Steps after which it ends, -1: none.",
}
PARTS = {"fit": ("LitScoreModel", "LitClassifier"), "validate": ("LitScoreModel", "LitClassifier"),
         "predict": ("LitPurification",), "test": ("LitRobustness",), "certify": ("LitCertification",),
         "estimate": ("LitRobustness",), "audit": ("LitRobustness",), "walk": ("LitRobustness",)}  # fmt: skip
