"""What a configuration says of a part, built; torch is imported only then."""

from __future__ import annotations

from argparse import ArgumentError
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import register_type

from lit_pursamere.configuration.linking import require_numbers
from lit_pursamere.configuration.readable import readable

__all__ = ["build", "know_names"]


def build(kind: Any, content: dict[str, Any]) -> Any:
    """What a configuration says of a part, built.

    Args:
        kind: What is wanted: `ScoreModel`, `Purifier | Recipe`, `Attack`.
        content: class_path and init_args.

    Raises:
        ValueError: If the class or an argument is none, or the class refuses it; the message says which.
    """
    require_numbers(content)
    know_names()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=kind)
    try:
        return parser.instantiate(parser.parse_object({"part": content})).part
    except (ArgumentError, ValueError) as error:
        raise ValueError(" ".join(readable(error).split()).removeprefix('Parser key "part": ')) from error


def know_names() -> None:
    """Teach the parser fractions such as 8/255, and to find classes that are named without their module path.

    Tasks and data modules are Lightning's; who builds any has imported them.
    """
    from lit_pursamere import attacks, networks, purifiers  # noqa: F401 (finds what was imported)
    from lit_pursamere.threat import Pixels

    register_type(Pixels, serializer=Pixels.plain, deserializer=Pixels, fail_already_registered=False)
