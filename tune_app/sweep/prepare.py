"""Everything about a sweep that is known before Ray starts: its data, class counts, arms and space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from search_spaces import ClassCounts, Space
from trainables.data import PackedDataset, open_packed
from trainables.data.phantom.generate import is_phantom
from trainables.data.sources import open_source
from trainables.engine import require_fitting
from trainables.models import build as build_model
from trainables.tasks import get_task, require_labels_for
from tune_app.ray_adapters.session import RaySession, TrialResources
from tune_app.search.arms import Arm, baseline_arm, num_trials, planned_arms, searched_space, sizes, with_baseline
from tune_app.settings.fitting import refuse_too_large
from tune_app.settings.schema import Settings, compares_device_seconds
from tune_app.settings.stored import FREQUENCIES
from tune_app.sweep.counts import class_counts, count_window_voxels
from tune_app.sweep.notify import Notify

SweepListener = Callable[["Prepared", RaySession, TrialResources], None]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything about a sweep that is known before Ray starts."""

    settings: Settings
    folder: Path
    dataset: PackedDataset
    counts: ClassCounts
    window_voxels: float
    """Annotated voxels per class in one count window: what decides whether count-based weights have saturated."""
    arms: list[Arm]
    space: Space
    baseline: str = ""
    """Label of the arm that is the untuned baseline; empty where none is planned."""
    resumed: bool = False
    extended: bool = False
    """resumed with more trials than sweep.yaml says."""
    notify: Notify = field(default_factory=Notify)

    @property
    def phantom(self) -> bool:
        """Whether the volumes were generated, whatever `data=` calls them."""
        return is_phantom(Path(self.dataset.root))

    @property
    def notices(self) -> list[str]:
        """What must be known of the data before any score is read."""
        return [self.dataset.leak] if self.dataset.leak else []

    @property
    def untuned(self) -> Arm:
        """The arm that is the untuned baseline, or would be."""
        planned = (arm for arm in self.arms if arm.label == self.baseline)
        return next(planned, None) or baseline_arm(self.settings, self.space)

    def sizes(self) -> list[Settings]:
        """The settings of the planned trials, and of points at the ends of the searched axes. SettingsError where a
        point gives what does not fit."""
        return sizes(self.settings, self.arms, self.space, self.counts)

    @property
    def compares_device_seconds(self) -> bool:
        """Whether trials of different models are compared at what they have spent, and not at epochs."""
        return compares_device_seconds(self.settings, self.sizes())

    @property
    def num_trials(self) -> int:
        """Trials of the whole sweep, planned arms included."""
        return num_trials(self.settings, self.arms, self.space, self.counts, self.window_voxels)


def prepare(
    settings: Settings,
    folder: Path,
    *,
    resumed: bool = False,
    extended: bool = False,
    chosen: Sequence[Arm] | None = None,
) -> Prepared:
    """Open the data, count the classes, lay out the arms. Writes nothing into the sweep folder.

    chosen: the arms, where the settings do not say which (a confirmation). Raises SettingsError, DataError,
    SearchSpaceError or InputError for anything that a person can mend.
    """
    space = searched_space(settings)
    arms = planned_arms(settings, space) if chosen is None else list(chosen)
    refuse_impossible_model(settings)
    dataset = open_packed(settings.data)
    kept = folder / FREQUENCIES
    counts = ClassCounts.from_json(kept) if resumed and kept.is_file() else class_counts(settings, dataset)
    window_voxels = count_window_voxels(settings, dataset)
    arms, baseline = with_baseline(settings, arms, space, counts, window_voxels)
    prepared = Prepared(
        settings=settings,
        folder=folder,
        dataset=dataset,
        counts=counts,
        arms=arms,
        space=space,
        window_voxels=window_voxels,
        baseline=baseline,
        resumed=resumed,
        extended=extended,
    )
    task = get_task(settings.task.name, settings.task.options)
    for arm in arms:
        require_labels_for(arm.trial(counts)["loss"]["name"], task, settings.task.name)
    for own in prepared.sizes():  # a preset that does not fit data or card is refused before anything starts
        refuse_too_large(own)
        if (own.model, own.data.patch) != (settings.model, settings.data.patch):
            refuse_impossible_model(own)
            open_packed(own.data)  # once, before the trials would all wait for the first of them to pack it
    return prepared


def refuse_impossible_model(settings: Settings) -> None:
    """SettingsError where there is no such model, or it does not take the patch. Nothing is allocated."""
    in_channels, outputs = open_source(settings.data).in_channels, len(settings.outputs)
    with torch.device("meta"):
        network = build_model(settings.model, in_channels=in_channels, num_classes=outputs, patch=settings.data.patch)
    require_fitting(
        network, get_task(settings.task.name, settings.task.options), settings.model.name, settings.task.name
    )
