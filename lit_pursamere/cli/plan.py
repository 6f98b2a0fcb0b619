"""What a comparison is: one `test` configuration, and purifiers by name.

    output: runs/compare/digits        # every purifier is an ordinary `test` run in OUTPUT/NAME
    test: ../digits/attacks.yaml       # seed_everything, model, data, trainer; its own purifier does not count
    purifiers:
      undefended: Identity             # what --model.purifier takes: a class, a file, or in place
      DiffPure ODE:                    # or options of `test`, in the order of a command line
        model.purifier: ../purifier/diffpure.yaml
        model.purifier.sampler: ode
        model.evaluations: 4
    sweep:                             # if wanted: a row for every value of a setting, see `sweep`
      model.purifier.t_star: [0.05, 0.1]

    base: digits.yaml                  # instead of `test`: what that comparison says, but for what stands here
    every: {data.test_size: 64}        # options before those of each purifier; those under `purifiers` come after them

Here files are only put together; what they say is checked when a purifier is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lit_pursamere.cli.sweep import Axes, places_of, read_sweep
from lit_pursamere.configuration.composition import read_yaml
from lit_pursamere.report.places import Place

__all__ = ["Plan", "read_plan", "refuse_own"]

TOP = ("output", "test", "purifiers")
SWEEP = "sweep"
ON_TOP = ("base", "output", "every", "purifiers", SWEEP)  # of a file that changes another comparison
TEST = ("seed_everything", "model", "data", "trainer")
OF_RUNS = ("ckpt_path", "verbose", "weights_only")  # what config.yaml of a run says beside that
GROUPS = ("model.", "data.", "trainer.")  # of the options of `test`
PURIFIER = "model.purifier"
OWN = ("model.output", "model.undefended")  # options that the comparison itself gives to `test`


@dataclass(frozen=True)
class Plan:
    """A comparison, with every file that it names read into it.

    Args:
        output: Folder of the runs and of the table.
        test: Configuration of `test`.
        purifiers: By name, options of `test`, the purifier first.
        places: By name, where those that are swept stand; their options are not among those of `purifiers`.
    """

    output: Path
    test: dict
    purifiers: dict[str, dict[str, object]]
    places: dict[str, Place] = field(default_factory=dict)

    def choose(self, names: Iterable[str] | None) -> list[str]:
        """These names in the order of the comparison (None: all); that of a swept entry means all its rows.

        Raises:
            ValueError: If there is no purifier of such a name.
        """
        if names is None:
            return list(self.purifiers)
        entries = {
            name: {name, self.places[name].purifier} if name in self.places else {name} for name in self.purifiers
        }
        if unknown := [name for name in names if not any(name in known for known in entries.values())]:
            raise ValueError(f"there is no purifier {unknown[0]!r} in this comparison; it has {listed(self.purifiers)}")
        return [name for name, known in entries.items() if known & set(names)]

    def arguments(self, name: str, options: Iterable[str] = ()) -> list[str]:
        """Arguments of `lit-pursamere test` for a purifier; `options` come last, but for what is swept."""
        own = {"model.undefended": False, "model.output": str(self.output / name), **self.purifiers[name]}
        place = self.places[name].options if name in self.places else {}
        return ["--config", json.dumps(self.test), *words(own), *options, *words(place)]

    @property
    def own(self) -> tuple[str, ...]:
        """Options of `test` that are no option of the comparison, for its file decides them."""
        return (PURIFIER, *OWN, *dict.fromkeys(option for place in self.places.values() for option in place.options))


def words(options: dict[str, object]) -> list[str]:
    """Options as words of a command line."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()]


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
    content = read_yaml(file)
    if isinstance(content, dict) and "base" in content:
        content = on_top(content, str(file))
    content = section(content, str(file), (*TOP, SWEEP), required=TOP)
    test = section(content["test"], f"test in {file}", TEST + OF_RUNS, required=("model", "data"))
    model = section(test["model"], f"test.model in {file}")
    if "LitRobustness" not in str(model.get("class_path")) or "attacks" not in (model.get("init_args") or {}):
        raise ValueError(
            f"test.model in {file} must be a LitRobustness with attacks, given as class_path and init_args"
        )
    attacks = section(model["init_args"]["attacks"], f"test.model.init_args.attacks in {file}")
    purifiers = section(content["purifiers"], f"purifiers in {file}")
    if not purifiers:
        raise ValueError(f"purifiers in {file} names no purifier")
    if not isinstance(content["output"], str) or not content["output"]:
        got = content["output"]
        raise ValueError(f"output in {file} must be the name of a folder, in quotes if it is a number; got {got!r}")
    plan = Plan(Path(output or content["output"]), {key: test[key] for key in TEST if key in test}, {})
    for name, value in purifiers.items():
        sweep, key = content.get(SWEEP), SWEEP
        if isinstance(value, dict) and SWEEP in value:
            sweep, key = value[SWEEP], f"purifiers.{name}.{SWEEP}"
            value = {option: given for option, given in value.items() if option != SWEEP}
        axes = read_sweep(sweep, key, file, partial(check_swept, attacks)) if sweep else {}
        add(plan, str(name), entry(str(name), value, attacks, file), axes, file)
    return plan


def add(plan: Plan, name: str, options: dict[str, object], axes: Axes, file: Path) -> None:
    """Add the rows of an entry to a plan.

    Raises:
        ValueError: If a row's name is taken or is no folder's, or an option of the entry is swept as well.
    """
    for row, place in places_of(name, axes):
        where = f"purifiers.{row} in {file}"
        check_name(row, where)
        if row in plan.purifiers:
            raise ValueError(f"{where} stands there twice")
        if told := [option for option in options if option in place.options]:
            raise ValueError(f"{where}: {told[0]} is told twice, by the purifier and by its sweep; take one out")
        plan.purifiers[row] = options
        if axes:
            plan.places[row] = place


def on_top(content: dict, where: str) -> dict:
    """The comparison that a file means which names another as its `base`.

    Raises:
        ValueError: If an entry is missing, unknown or not of its kind, or the base has no such purifier.
    """
    section(content, where, ON_TOP, required=ON_TOP[:2])
    base = section(content["base"], f"base in {where}", (*TOP, SWEEP), required=TOP)
    every = section(content.get("every", {}), f"every in {where}")
    changes = section(content.get("purifiers", {}), f"purifiers in {where}")
    rows = section(base["purifiers"], f"purifiers of the base of {where}")
    if unknown := [name for name in changes if name not in rows]:
        raise ValueError(f"purifiers in {where}: the base has no {unknown[0]!r}; it has {listed(rows)}")
    for name in changes:
        section(changes[name], f"purifiers.{name} in {where}")
    return {
        **base,
        **{key: content[key] for key in ("output", SWEEP) if key in content},
        "purifiers": {
            name: later(later(every, row if has_options(row) else {PURIFIER: row}), changes.get(name, {}))
            for name, row in rows.items()
        },
    }


def has_options(row: object) -> bool:
    """Whether an entry of `purifiers` is options of `test`, and not a purifier alone."""
    return isinstance(row, dict) and "class_path" not in row


def later(first: dict, second: dict) -> dict:
    """Options one after another: of what both name the second holds, and at its place."""
    return {**{option: value for option, value in first.items() if option not in second}, **second}


def entry(name: str, value: object, attacks: Collection[str], file: Path) -> dict[str, object]:
    """The options that an entry of `purifiers` means.

    Raises:
        ValueError: If it is not understood; the message names the key and the known ones.
    """
    where = f"purifiers.{name} in {file}"
    check_name(name, where)
    if isinstance(value, str) or (isinstance(value, dict) and "class_path" in value):
        return {PURIFIER: value}
    options = {str(option): given for option, given in section(value, where).items()}
    if PURIFIER not in options:
        raise ValueError(f"{where} needs {PURIFIER}, beside other options of `test`; it has {listed(options)}")
    for option in options:
        refuse_own(option, where)
        check_option(option, attacks, where)
    return {PURIFIER: options[PURIFIER], **options}


def check_name(name: str, where: str) -> None:
    """Raise ValueError unless a folder can have this name."""
    if not re.fullmatch(r"\w[\w.+=() -]*", name):
        raise ValueError(f"{where}: a name is a folder's: letters, digits, spaces and _ . + - = ( ); got {name!r}")


def check_swept(attacks: Collection[str], option: str, where: str) -> None:
    """Refuse what cannot be swept.

    Raises:
        ValueError: Naming the option and what is known.
    """
    refuse_own(option, where)
    check_option(option, attacks, where)
    if option == PURIFIER:
        raise ValueError(f"{where}: {PURIFIER} itself is not swept; name every purifier under `purifiers`")


def check_option(option: str, attacks: Collection[str], where: str) -> None:
    """Refuse what is no option of `test` for one purifier.

    Raises:
        ValueError: Naming the option and what is known.
    """
    if not option.startswith(GROUPS):
        raise ValueError(f"{where}: options of `test` begin with {listed(GROUPS)} (model.evaluations); got {option!r}")
    attack = option.removeprefix("model.attacks.")
    if attack != option and not any(attack == name or attack.startswith(f"{name}.") for name in attacks):
        raise ValueError(f"{where}: {option} is about no attack of `test`, which has {listed(attacks)}")


def refuse_own(option: str, where: str, own: Iterable[str] = OWN) -> None:
    """Refuse an option of `test` that decides what the comparison decides.

    Raises:
        ValueError: If it is one of these, or a part of one.
    """
    if any(option == name or option.startswith(f"{name}.") for name in own):
        raise ValueError(
            f"{where}: {option} is given by the comparison itself; name purifiers with their options under "
            "`purifiers`, what varies under `sweep`, and the folder under `output`"
        )


def section(value: object, where: str, known: Iterable[str] | None = None, required: Iterable[str] = ()) -> dict:
    """The value, if it is a mapping with these keys.

    Args:
        value: What a file holds.
        where: Its place in the file, for messages.
        known: Its keys; None: any.
        required: Those that may not be missing.

    Raises:
        ValueError: If it is no mapping, or has an unknown key, or lacks one; the message names the key and the known.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a mapping (`key: value` lines); got {value!r}")
    for key in value:
        if known is not None and key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known: {listed(known)}")
    for key in required:
        if key not in value:
            raise ValueError(f"{where} lacks {key!r}; known: {listed(known or required)}")
    return value


def listed(names: Iterable[object]) -> str:
    """Names in a sentence."""
    return ", ".join(map(str, names))
