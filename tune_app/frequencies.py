"""Class counts of the training crops:  python -m tune_app.frequencies data=cellmap data.root=PATH"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from search_spaces import ClassCounts
from trainables.data import named_classes, open_packed
from trainables.files import write_text
from trainables.settings import PATH, DataSettings, require_choice
from tune_app.errors import written
from tune_app.settings.command_line import run_verb
from tune_app.settings.schema import POPULATIONS
from tune_app.sweep.counts import count


@dataclass(kw_only=True)
class FrequenciesSettings:
    """What `python -m tune_app.frequencies` takes."""

    out: str = field(default="class_frequencies.json", metadata=PATH)
    """File to write; frequencies=FILE of a run reads it."""
    side: str = "train"
    """train, or validate to look at the other side."""
    population: str = "sampled"
    """What is written: sampled (voxels as training patches show them) or data (every voxel of the crops once)."""
    data: DataSettings = field(default_factory=DataSettings)

    def __post_init__(self) -> None:
        require_choice("side", self.side, ("train", "validate"))
        require_choice("population", self.population, POPULATIONS)


def frequencies(settings: FrequenciesSettings) -> int:
    """Count, print and write."""
    dataset = open_packed(named_classes(settings.data))
    counted = {population: count(dataset, population, settings.side) for population in POPULATIONS}
    counts = counted[settings.population]
    out = Path(settings.out).expanduser()
    with written(f"out={out}", "Give another file: out=PATH"):
        write_text(out, json.dumps(asdict(counts), indent=2) + "\n")
    print(counts.source)
    shares = "".join(f"{population:>12}" for population in POPULATIONS)
    print(f"{'class':<14}{'positive voxels':>18}{'known voxels':>18}{shares}   share of the known voxels")
    for index, name in enumerate(counts.classes):
        shares = "".join(f"{_share(found, index):>12}" for found in counted.values())
        print(f"{name:<14}{counts.positive[index]:>18,.0f}{counts.known[index]:>18,.0f}{shares}")
    print(f"written to {out}")
    return 0


def _share(counts: ClassCounts, index: int) -> str:
    return f"{100 * counts.positive[index] / counts.known[index]:.2f} %" if counts.known[index] else "—"


def main() -> None:
    run_verb("frequencies", FrequenciesSettings, frequencies)


if __name__ == "__main__":
    main()
