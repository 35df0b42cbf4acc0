"""A network that gives one label to a volume, applied to volumes: a table with a line for each."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from trainables.data.sources import Source, open_source
from trainables.files import write_text
from trainables.settings import DataSettings, require
from tune_app.errors import InputError, written
from tune_app.exporting.trained_model import Model
from tune_app.exporting.volume import named

EVERY = "all"
"""What crop= says for all volumes of the data."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What was written. told: how many were called what, and how good that is where labels are known."""

    out: Path
    volumes: int
    told: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.out}   {self.volumes} volumes", *(f"  {line}" for line in self.told)])


def refuse_table(out: Path, classes: Sequence[str], *, overwrite: bool) -> None:
    """InputError where `out` is no name of a table, or exists and is not one of these classes to be replaced."""
    require(out.suffix == ".csv", "out", out, "one label for each volume is a table", "Use out=pred.csv")
    if not out.exists():
        return
    if not out.is_file() or out.read_text(encoding="utf-8", errors="replace").split("\n")[0] != _header(classes):
        raise InputError(f"out={out}: exists and is no such prediction, so it is not replaced. Choose another name")
    if not overwrite:
        raise InputError(f"out={out}: exists. Choose another name, or overwrite=true to replace that prediction")


def _header(classes: Sequence[str]) -> str:
    return ",".join(["volume", "predicted", *(f"p_{name}" for name in classes), "label", "side"])


def predict_labels(
    model: Model, data: DataSettings, *, crop: str, volume: str, out: Path, batch_size: int, console: Console
) -> Labelled:
    """Predict the volumes that crop= or volume= names, and write the table. Raises InputError or DataError before."""
    source: Source[Any] = open_source(data)
    items = _given(source, Path(volume).expanduser(), volume) if volume else list(source.items())
    if crop and crop != EVERY:
        items = [named(items, crop)]
    counts = model.task.zeros(1, len(model.classes), model.cut.device)
    rows = list[list[str]]()
    with torch.no_grad():
        for number, first in enumerate(range(0, len(items), batch_size)):
            some = items[first : first + batch_size]
            decoded = [source.decode(item) for item in some]
            em = torch.stack([torch.from_numpy(one.em).reshape(-1, *one.em.shape[-3:]) for one in decoded])
            logits = model.network(em.to(model.cut.device))
            labels = torch.stack([torch.from_numpy(one.labels) for one in decoded]).to(model.cut.device)
            target = model.task.target(labels, data.classes)
            model.task.count_(counts, logits, target, torch.zeros(len(some), dtype=torch.int64), number)
            rows += list(_rows(model.classes, some, logits.flatten(1).softmax(1).cpu(), target.flatten(1).cpu()))
            console.print(f"{len(rows)} of {len(items)} volumes", highlight=False)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with written(f"out={out}", "Choose another name"):
        write_text(out, f"{_header(model.classes)}\n{text.getvalue()}")
    called = Counter(row[1] for row in rows)
    told = [", ".join(f"{count} {name}" for name, count in called.most_common())]
    if any(row[-2] for row in rows):
        result = {**model.task.result({name: value.cpu() for name, value in counts.items()}), "val_loss": 0.0}
        told.append(model.task.describe(model.task.scores(result, model.classes)))
    trained = sum(row[-1] == "train" for row in rows)
    told += [f"{trained} of them trained the network: what it says of those is no evidence"] * bool(trained)
    return Labelled(out=out, volumes=len(rows), told=tuple(told))


def _rows(classes: Sequence[str], items: Sequence[Any], p: torch.Tensor, target: torch.Tensor) -> Iterator[list[str]]:
    """A line for each volume; p, target: (N, C). The label is left out where none or several are given."""
    for item, chances, truth in zip(items, p.tolist(), target.tolist()):
        best = max(range(len(classes)), key=chances.__getitem__)
        label = classes[truth.index(1.0)] if truth.count(1.0) == 1 else ""
        yield [item.name, classes[best], *(f"{chance:.6f}" for chance in chances), label, item.side]


def _given(source: Source[Any], path: Path, given: str) -> list[Any]:
    """The volumes in a file, or in the files of a folder. InputError where there are none."""
    files = [path] if path.suffix in source.suffixes else sorted(path.glob("*")) if path.is_dir() else []
    found = [source.unlabelled(file) for file in files if file.suffix in source.suffixes and file.exists()]
    if not found:
        problem = "holds no volume" if path.exists() else "does not exist"
        raise InputError(
            f"volume={given}: {problem}; needed is a file of {', '.join(source.suffixes)}, or a folder of some"
        )
    return found
