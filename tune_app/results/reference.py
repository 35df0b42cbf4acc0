"""Results of another pipeline, to stand beside a leaderboard. They are never ranked with ours."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from tune_app.errors import InputError
from tune_app.results.baseline import NOT_RUN

NOT_COMPARABLE = "not comparable (other pipeline)"
PUBLISHED_CAUTION = (
    "Of the published rows, weight_uniform, weight_effective_num and the three cb_beta_* are one and the same "
    "configuration, run five times: mean 0.5361, sd 0.0127. All three seesaw_* lie inside that seed noise: at most "
    "0.0202 from this mean, where a single run differs from it by up to 0.0385 (95 %). That seesaw helps is not shown."
)
_FORMAT = (
    'A JSON list such as [{"name": "a", "mean": 0.57, "nuc": 0.85}] or a CSV file with the columns name, mean and one '
    "per class is needed"
)


def read_reference(source: str, classes: Sequence[str], metric: str) -> pd.DataFrame:
    """Rows name, the metric, dice/<class>, minutes from `published` (the fifteen published results) or a file.

    A JSON list, a JSON object with the list under `results` or `leaderboard`, or a CSV file; a row has `name`, `mean`
    or the metric, and per class `dice/<class>`, `<class>`, or an entry of `dice`. Scores lie in [0, 1]; a missing one
    is NaN. Raises InputError that names the file and the row.
    """
    rows = [_row(source, i, row, classes, metric) for i, row in enumerate(_read_rows(source), start=1)]
    frame = pd.DataFrame(rows, columns=["name", "family", metric, *(f"dice/{c}" for c in classes), "minutes"])
    return frame.sort_values(metric, ascending=False, kind="stable").reset_index(drop=True)


def _read_rows(source: str) -> list[dict[str, Any]]:
    text, suffix = _text(source)
    try:
        found = list(csv.DictReader(text.splitlines())) if suffix == ".csv" else json.loads(text)
    except (ValueError, csv.Error) as error:
        raise InputError(f"reference={source}: cannot be read ({error}). {_FORMAT}.") from None
    if isinstance(found, dict):
        found = found.get("results") or found.get("leaderboard")
    if not isinstance(found, list) or not found or not all(isinstance(row, dict) for row in found):
        raise InputError(f"reference={source}: holds no rows of results. {_FORMAT}.")
    return [row for row in found if row.get("status") != NOT_RUN]


def _text(source: str) -> tuple[str, str]:
    if source == "published":
        published = resources.files("tune_app.results").joinpath("published/results_fifteen.json")
        return published.read_text(encoding="utf-8"), ".json"
    path = Path(source).expanduser()
    try:
        return path.read_text(encoding="utf-8-sig"), path.suffix.lower()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text file"
        raise InputError(
            f"reference={source}: {reason}. Choices: published (the fifteen published results), or a JSON or CSV file."
        ) from None


def _row(source: str, index: int, row: Mapping[str, Any], classes: Sequence[str], metric: str) -> dict[str, Any]:
    where = f"reference={source}: row {index}"
    if not row.get("name"):
        raise InputError(f"{where} has no name. {_FORMAT}.")
    dice = row["dice"] if isinstance(row.get("dice"), dict) else {}
    scores = {metric: _first(row, (metric, "mean"))}
    scores |= {f"dice/{c}": dice.get(c, _first(row, (f"dice/{c}", c))) for c in classes}
    values = {key: _number(where, key, value) for key, value in scores.items()}
    for key, value in values.items():
        if not (math.isnan(value) or 0 <= value <= 1):
            raise InputError(f"{where}: {key}={value}: a Dice lies in [0, 1]. Write 0.57 for 57 %.")
    if math.isnan(values[metric]):
        raise InputError(f"{where} has no mean. {_FORMAT}.")
    minutes = _number(where, "minutes", row.get("minutes"))
    return {"name": str(row["name"]), "family": str(row.get("family") or ""), **values, "minutes": minutes}


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) not in (None, "")), None)


def _number(where: str, key: str, value: Any) -> float:
    try:
        return math.nan if value in (None, "") else float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {key}={value} is not a number. {_FORMAT}.") from None
