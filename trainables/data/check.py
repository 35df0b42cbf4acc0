"""Verifies a data set and its split, and says what is wrong. Reads every label and every EM chunk the split needs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from trainables.data.expand import class_masks
from trainables.data.packed import named_classes
from trainables.data.sources import Finding, Item, Source, check_classes, open_source, unannotated_classes
from trainables.errors import DataError
from trainables.settings import DataSettings


def check(settings: DataSettings) -> list[Finding]:
    """Everything wrong with the data and split of `settings`, worst first; only `info` when all is well.

    Looks at the root, the split file (rows, repeats, sides), overlapping crops, the class names, which sides hold which
    class, and decodes each crop with its surroundings. Never raises DataError: it becomes a finding. Data is only read.
    """
    findings: list[Finding] = []
    try:
        settings = named_classes(settings)
        source = open_source(settings)
        items, findings = source.inspected()
        if not items:  # nothing but rows that cannot be used: they are what is wrong
            return findings
        findings += _classes(source, items)
        used = [item for item in items if set(item.classes) & set(settings.classes)]
    except DataError as error:
        return [*findings, Finding("error", settings.root or settings.name, str(error))]
    findings += source.overlaps(used)
    labels: dict[str, Counter[str]] = {}
    for item in used:
        findings += _crop(source, item, labels.setdefault(item.side, Counter()))
    if not any(finding.level == "error" for finding in findings):  # else they are not all of them
        findings += source.judged(labels)
    numbers = dict(Counter(sorted(item.side for item in used)))
    told = f"{len(used)} crops hold at least one class: {json.dumps(numbers)}"
    findings.append(Finding("info", "split", told))
    return sorted(findings, key=lambda finding: ("error", "warning", "info").index(finding.level))


def _classes(source: Source[Any], items: Sequence[Item]) -> list[Finding]:
    """Misspelled classes, classes nobody annotates, and classes or sides that are missing on one side."""
    settings = source.settings
    check_classes(settings.classes, items, source.vocabulary)
    missing = unannotated_classes(settings.classes, items)
    findings = [Finding("warning", name, "no crop annotates this class; its channel stays unknown") for name in missing]
    crops = {name: sum(name in item.classes for item in items) for name in settings.classes}
    findings.append(
        Finding("info", "classes", ", ".join(f"{name} in {number} crops" for name, number in crops.items()))
    )
    for side in ("train", "validate"):
        members = [item for item in items if item.side == side]
        if not members:
            findings.append(Finding("error", side, "no crop is on this side of the split"))
        lacking = [name for name in settings.classes if not any(source.holds(item, name) for item in members)]
        findings += [
            Finding("warning", name, f"no crop on side {side} holds this class")
            for name in lacking
            if members and name not in missing
        ]
    return findings


def _crop(source: Source[Any], item: Item, labels: Counter[str]) -> Iterator[Finding]:
    """Decode one crop as packing does, and add up its labels as they lie on disk."""
    try:
        crop = source.decode(item)
    except DataError as error:
        yield Finding("error", item.name, str(error))
        return
    labels.update(crop.label_counts)
    if crop.masked:
        yield Finding("warning", item.name, f"no EM for {100 * crop.masked:.1f} % of the crop; masked there")
    if crop.padded:
        told = f"the EM of {100 * crop.padded:.1f} % of the crop is zero padding; unknown there"
        yield Finding("warning", item.name, told)
    yield from (Finding("warning", item.name, remark) for remark in crop.remarks)
    count = len(source.settings.classes)
    if not any(np.any(class_masks(crop.labels, index, count)[1]) for index in range(count)):
        yield Finding("warning", item.name, "no voxel is known for any of the classes")
