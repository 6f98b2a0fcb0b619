"""Certificates of images: one JSON line per image and noise level, appended as the run proceeds.

    FOLDER/manifest.json            what is certified, see `manifest`; its `certification` says how
    FOLDER/certificates-RANK.jsonl  rows, see `rows`

A row is keyed by (sigma, index):

    dataset, sigma, index, label    standard deviation of the noise in pixel units; position and class of the image
    selected, count                 the class that n0 draws chose, and in how many of n others it was given
    lower, radius                   lower bound of its probability; radius of the certificate in l2, null: it abstains
    prediction                      what PREDICT answers; -1: it abstains
    seconds, seed, run              time; what `seed_everything` was given; digest of the manifest
"""

from __future__ import annotations

from pathlib import Path

from lit_pursamere.store.durable import Row
from lit_pursamere.store.manifest import read_manifest, require_stated, run_of
from lit_pursamere.store.records import check
from lit_pursamere.store.rows import RowsFolder

__all__ = ["Certificates", "read_certificates"]

Key = tuple[float, int]


def read_certificates(folder: Path) -> tuple[dict, list[Row]]:
    """The manifest of a certification, and all its rows, one per key, sorted by key.

    Raises:
        FileNotFoundError: If the folder holds no certificates.
        ValueError: If the manifest or a row is damaged, or they do not belong together.
    """
    manifest = read_manifest(folder)
    if not Certificates.has_rows(folder):
        raise FileNotFoundError(f"no certificates in {folder}; run `lit-pursamere certify` first")
    if manifest is None:
        raise ValueError(f"{folder} has certificates, but no manifest.json that says of what; restore that file")
    require_stated(folder, manifest, "data", "images.count", *(f"certification.{name}" for name in SETTINGS))
    rows = Certificates.read(folder, run_of(manifest))
    if not rows:
        raise ValueError(f"the certificates in {folder} are of another run than its manifest.json states")
    stated = manifest["certification"]["sigmas"]
    for row in rows.values():
        if row["sigma"] not in stated or row["count"] > manifest["certification"]["n"]:
            raise ValueError(f"{folder} has a row that its manifest does not state: sigma {row['sigma']!r}, "
                             f"count {row['count']!r}")  # fmt: skip
    return manifest, [rows[key] for key in sorted(rows)]


SETTINGS = ("sigmas", "n0", "n", "alpha")  # of a certification, in its manifest


class Certificates(RowsFolder):
    """The folder of a certification as one process has it open."""

    kind = "certificates"

    @staticmethod
    def key_of(row: Row) -> Key:
        """The key of a row.

        Raises:
            KeyError: If it lacks an entry.
            ValueError: If an entry is none of those that a certification writes; the message names it.
        """
        check(row, "sigma", int, float, least=0)
        for name in ("index", "label", "selected", "count"):
            check(row, name, int, least=0)
        check(row, "prediction", int, least=-1)
        check(row, "lower", int, float, least=0, most=1)
        check(row, "radius", int, float, None, least=0, most=1e9)
        return row["sigma"], row["index"]
