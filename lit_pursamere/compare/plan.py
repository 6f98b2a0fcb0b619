"""What a comparison is: one `test` configuration, and purifiers by name.

    output: runs/compare/digits              # every purifier is an ordinary `test` run in OUTPUT/NAME
    test: ../digits/attacks.yaml             # seed_everything, model, data, trainer; its own purifier does not count
    score_model: ../score_model/ddpm.yaml    # optional: takes the place of the score model in every purifier's file
    purifiers:
      undefended: ../purifier/identity.yaml  # a file, or in place: {class_path: Identity}
      DiffPure ODE:
        purifier: ../purifier/diffpure.yaml  # a file (or class_path: DiffPure), and on top of it
        init_args: {sampler: ode}            # arguments of the purifier
        with: {model.evaluations: 4}         # options of `test` for this purifier alone

Anything may stand in place or in a file of its own: text that ends in .yaml means that file, relative to the one that
names it. Here files are only put together; what they say is checked when a purifier is built.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lit_pursamere.compare.entry import Entry, read_entry
from lit_pursamere.compare.reading import check_keys, in_place, listed, load, mapping

__all__ = ["Plan", "read_plan"]

TOP = ("output", "test", "score_model", "purifiers")
TEST = ("seed_everything", "model", "data", "trainer")
OF_RUNS = ("ckpt_path", "verbose", "weights_only")  # what config.yaml of a run says beside that


@dataclass(frozen=True)
class Plan:
    """A comparison, with every file that it names read into it.

    Args:
        output: Folder of the runs and of the table.
        test: Configuration of `test`.
        entries: Purifiers by name.
    """

    output: Path
    test: dict
    entries: dict[str, Entry]

    def choose(self, names: Iterable[str] | None) -> list[str]:
        """These names in the order of the comparison (None: all).

        Raises:
            ValueError: If there is no purifier of such a name.
        """
        if names is None:
            return list(self.entries)
        if unknown := [name for name in names if name not in self.entries]:
            raise ValueError(f"there is no purifier {unknown[0]!r} in this comparison; it has {listed(self.entries)}")
        return [name for name in self.entries if name in set(names)]

    def arguments(self, name: str, options: Iterable[str] = ()) -> list[str]:
        """Arguments of `lit-pursamere test` for a purifier; `options` have the last word."""
        entry, config = self.entries[name], copy.deepcopy(self.test)
        config["model"]["init_args"].update(purifier=entry.purifier, undefended=False, output=str(self.output / name))
        values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in entry.options.items()}
        own = [f"--{key}={value}" for key, value in values.items()]
        return ["--config", json.dumps(config), *own, *options]


def read_plan(file: str | Path, output: str | Path | None = None) -> Plan:
    """Read a comparison.

    Args:
        file: Its YAML file.
        output: Folder in place of the file's.

    Raises:
        FileNotFoundError: If a file does not exist; the message says who names it.
        ValueError: If an entry is missing, unknown, or not of its kind; the message names it and the known ones.
    """
    file = Path(file)
    content = mapping(load(file), str(file))
    check_keys(content, TOP, required=("output", "test", "purifiers"), where=str(file))
    test = mapping(in_place(content["test"], file), f"test in {file}")
    check_keys(test, TEST + OF_RUNS, required=("model", "data"), where=f"test in {file}")
    model = mapping(test["model"], f"test.model in {file}")
    if "LitRobustness" not in str(model.get("class_path")) or "attacks" not in (model.get("init_args") or {}):
        raise ValueError(
            f"test.model in {file} must be a LitRobustness with attacks, given as class_path and init_args"
        )
    attacks = mapping(model["init_args"]["attacks"], f"test.model.init_args.attacks in {file}")
    score_model = in_place(content.get("score_model"), file)
    purifiers = mapping(content["purifiers"], f"purifiers in {file}")
    if not purifiers:
        raise ValueError(f"purifiers in {file} names no purifier")
    return Plan(
        output=Path(output or content["output"]),
        test={key: test[key] for key in TEST if key in test},
        entries={
            str(name): read_entry(str(name), entry, score_model, attacks, file) for name, entry in purifiers.items()
        },
    )
