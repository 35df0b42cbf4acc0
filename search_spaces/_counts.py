"""Voxel counts per class: of the data at hand (`class_frequencies.json`) or as published."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from trainables.losses import SettingsError

PUBLISHED_COUNTS = "class_frequencies_published.json"


@dataclass(frozen=True)
class ClassCounts:
    """positive (n) and annotated (known) voxels per class, in class order; 0 ≤ positive ≤ known. Expected ones are no
    whole numbers."""

    classes: tuple[str, ...]
    positive: tuple[float, ...]
    known: tuple[float, ...]
    source: str = ""
    """Where they come from, for people."""

    def __post_init__(self) -> None:
        for name in ("classes", "positive", "known"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check(len(self.classes) > 0, "at least one class is needed")
        self._check(all(isinstance(name, str) for name in self.classes), "every class must be a name")
        self._check(len(set(self.classes)) == len(self.classes), "no class may appear twice")
        self._check(
            len(self.classes) == len(self.positive) == len(self.known),
            "classes, positive and known must have the same length",
        )
        for name, n, known in zip(self.classes, self.positive, self.known, strict=True):
            numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (n, known))
            self._check(numbers and 0 <= n <= known, f"0 ≤ positive ≤ known must hold for {name}, got {n}, {known}")

    def _check(self, condition: bool, rule: str) -> None:
        if not condition:
            raise SettingsError(
                f"class counts {self.source or self.classes}: {rule}. "
                "Compute them with: python -m tune_app.frequencies data=cellmap data.root=PATH"
            )

    @classmethod
    def published(cls) -> ClassCounts:
        """The five published classes, counted over 50 training batches."""
        text = resources.files("search_spaces").joinpath(PUBLISHED_COUNTS).read_text(encoding="utf-8")
        return cls.from_mapping(json.loads(text))

    @classmethod
    def made_up(cls, classes: Sequence[str]) -> ClassCounts:
        """For what depends on the classes, and not on how frequent they are."""
        return cls(tuple(classes), tuple(10**7 // (c + 2) for c in range(len(classes))), (10**8,) * len(classes))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str = "") -> ClassCounts:
        """Counts from {"classes", "positive", "known"}; further keys are ignored."""
        origin = source or str(values.get("source", ""))
        missing = [key for key in ("classes", "positive", "known") if not isinstance(values.get(key), list | tuple)]
        if missing:
            raise SettingsError(
                f"class counts {origin}: {', '.join(missing)} must be a list. "
                'The form is {"classes": [...], "positive": [...], "known": [...]}, as tune_app.frequencies writes it'
            )
        return cls(tuple(values["classes"]), tuple(values["positive"]), tuple(values["known"]), origin)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> ClassCounts:
        """Counts from a class_frequencies.json; SettingsError where it is missing or broken."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise SettingsError(
                f"class counts {path}: cannot be read ({error}). "
                "Compute them with: python -m tune_app.frequencies data=cellmap data.root=PATH"
            ) from error
        if not isinstance(values, dict):
            raise SettingsError(f"class counts {path}: must hold a JSON object, got {type(values).__name__}")
        return cls.from_mapping(values, source=str(path))

    def select(self, classes: Sequence[str]) -> ClassCounts:
        """The counts of these classes, in this order; SettingsError for a class that was not counted."""
        missing = [name for name in classes if name not in self.classes]
        if missing:
            raise SettingsError(
                f"class counts {self.source}: no counts for {', '.join(missing)}. Counted: {', '.join(self.classes)}. "
                "Count the data at hand with: python -m tune_app.frequencies data=cellmap data.root=PATH"
            )
        index = [self.classes.index(name) for name in classes]
        return ClassCounts(
            tuple(classes), tuple(self.positive[i] for i in index), tuple(self.known[i] for i in index), self.source
        )
