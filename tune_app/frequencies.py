"""Class counts of the training crops:  python -m tune_app.frequencies data=cellmap data.root=PATH"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from search_spaces import ClassCounts
from trainables.data import named_classes, open_packed
from trainables.files import write_text
from trainables.settings import PATH, DataSettings, require_choice
from tune_app.errors import written
from tune_app.settings.command_line import run_verb
from tune_app.settings.document import FORMATS, Ended
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
    format: str = "table"
    """table or json (docs/json.md)."""
    data: DataSettings = field(default_factory=DataSettings)

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)
        require_choice("side", self.side, ("train", "validate"))
        require_choice("population", self.population, POPULATIONS)


def frequencies(settings: FrequenciesSettings) -> Ended:
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
        found = (_share(each, index) for each in counted.values())
        shares = "".join(f"{f'{100 * share:.2f} %' if share == share else '—':>12}" for share in found)
        print(f"{name:<14}{counts.positive[index]:>18,.0f}{counts.known[index]:>18,.0f}{shares}")
    print(f"written to {out}")
    rows = [
        {
            "class": name,
            "positive": counts.positive[index],
            "known": counts.known[index],
            "share": {population: _share(found, index) for population, found in counted.items()},
        }
        for index, name in enumerate(counts.classes)
    ]
    about = {"side": settings.side, "population": settings.population, "source": counts.source}
    return Ended(lambda: {"file": out, **about, "classes": rows})


def _share(counts: ClassCounts, index: int) -> float:
    """Of the annotated voxels of a class; NaN where there are none."""
    return counts.positive[index] / counts.known[index] if counts.known[index] else math.nan


def main() -> None:
    run_verb("frequencies", FrequenciesSettings, frequencies)


if __name__ == "__main__":
    main()
