"""What purifications cost, as cost.json beside the records of a run says; `evaluation.cost` measures it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lit_pursamere.store.atomic import write_whole

__all__ = ["Asked", "Cost", "read_cost", "write_cost"]

NAME = "cost.json"


@dataclass(frozen=True)
class Asked:
    """How often a network was asked for one answer about one image.

    Args:
        network: Its class, "NCSNv2Score".
        score_model: Whether it is a score model.
        calls: Images that went through it.
        gradients: Gradients that came back through it, one per image.
    """

    network: str
    score_model: bool
    calls: float
    gradients: float


@dataclass(frozen=True)
class Cost:
    """Cost of a purifier on a machine.

    Args:
        purifier: Its description, with the number of copies that make an answer.
        weights: Digest of its weights.
        networks: What was asked, by the name under which the purifier keeps the network.
        images: Images in the batch that was purified.
        seconds: Seconds per image of that batch, for all copies of an answer.
        deterministic: Whether a second purification gave the same images, bit for bit.
        device: What computed.
        threads: Threads that torch may use on a CPU.
        time: When, UTC.
    """

    purifier: str
    weights: str
    networks: dict[str, Asked]
    images: int
    seconds: float
    deterministic: bool
    device: str
    threads: int
    time: str

    def asked(self, score_models: bool) -> tuple[float, float]:
        """Calls and gradients per image, of the score models or of all other networks."""
        found = [asked for asked in self.networks.values() if asked.score_model == score_models]
        return sum(asked.calls for asked in found), sum(asked.gradients for asked in found)


def read_cost(folder: str | Path) -> Cost | None:
    """The cost that was measured for a run, or None if there is none.

    Raises:
        ValueError: If the file is damaged.
    """
    file = Path(folder) / NAME
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Cost(**content | {"networks": {name: Asked(**asked) for name, asked in content["networks"].items()}})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error}); remove it, and it is measured again") from error


def write_cost(folder: str | Path, cost: Cost) -> None:
    """Write cost.json, whole or not at all, into a folder, which is made if need be.

    Raises:
        OSError: If it cannot be written.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_whole(Path(folder) / NAME, (json.dumps(asdict(cost), indent=2) + "\n").encode())
