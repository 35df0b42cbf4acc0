"""The edition of fourteen classes: every class on both sides, partial annotation, four bytes per voxel."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from trainables.data import open_packed
from trainables.data.expand import packed_bytes
from trainables.data.sources import open_source
from trainables.errors import SettingsError
from trainables.settings import FOURTEEN_CLASSES, DataSettings
from tune_app.settings.command_line import compose
from tune_app.settings.schema import Settings


def composed(*words: str) -> DataSettings:
    composed = compose("run", Settings, list(words))
    assert composed is not None
    return composed.settings.data


@pytest.mark.parametrize("data", ["cellmap14", "phantom14"])
def test_the_choices_name_the_fourteen_classes_in_order(data: str) -> None:
    five = composed(f"data={data.removesuffix('14')}")
    settings = composed(f"data={data}")
    assert tuple(settings.classes) == FOURTEEN_CLASSES
    assert (settings.name, settings.patch) == (five.name, five.patch)


def test_every_class_is_learnt_and_validated_and_none_is_annotated_everywhere(shared_cache: Path) -> None:
    settings = composed("data=phantom14", f"data.cache_dir={shared_cache}")
    dataset = open_packed(settings)
    for side in ("train", "validate"):
        counts = dataset.counts(side)
        assert all(0 < n < known for n, known in zip(counts["positive"], counts["known"])), (side, counts)
    items = open_source(settings).items()
    annotated = Counter(name for item in items if item.side == "train" for name in item.classes)
    assert set(annotated) == set(FOURTEEN_CLASSES)
    assert max(annotated.values()) < len(items)
    rarest = {"ves_mem", "ves_lum", "endo_mem", "endo_lum", "mito_ribo"}
    shares = {n: p / k for n, p, k in zip(*(dataset.counts()[key] for key in ("classes", "positive", "known")))}
    assert rarest == set(sorted(shares, key=shares.__getitem__)[:5])


def test_fourteen_classes_take_four_bytes_per_voxel() -> None:
    assert packed_bytes(len(FOURTEEN_CLASSES)) == 4


def test_an_unknown_edition_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"data\.options\.edition=six.*five, fourteen"):
        open_source(DataSettings(name="phantom", options={"edition": "six"}))
