"""What fits into the memory that a trial has: `batch=auto`, and what is said before a sweep starts."""

from __future__ import annotations

import os
from bisect import bisect
from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import ceil, inf

import torch

from search_spaces import Sections
from trainables.data.sources import open_source
from trainables.errors import SettingsError
from trainables.memory import state_bytes, step_bytes
from trainables.settings import TrialSettings, require
from tune_app.settings.schema import Settings, laid_over

GB = 1e9
USABLE = 0.9
"""Of a trial's memory: the rest is work space of libraries, and gaps between tensors."""
COMPILED = 2.0
"""What a compiled step never gains over the uncompiled one that is reckoned with, as a factor: more is refused."""


def num_workers(settings: Settings) -> int:
    """Processes of a trial with these settings."""
    asked = settings.resources
    return asked.workers_per_trial or max(1, int(asked.gpus_per_trial or 0))


def takes_gpu(settings: Settings) -> bool:
    """Whether a trial is to run on a GPU, as far as that is known before Ray is."""
    device, gpus = settings.hardware.device, settings.resources.gpus_per_trial
    return device == "cuda" or (device == "auto" and gpus != 0 and (bool(gpus) or torch.cuda.is_available()))


def device_gb(settings: Settings) -> float:
    """Memory of the device of a trial: as hardware.device_memory_gb says, else of the smallest card of this machine, or
    without a GPU its main memory; inf where nothing is known of it."""
    if settings.hardware.device_memory_gb:
        return settings.hardware.device_memory_gb
    if not takes_gpu(settings):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    cards = [torch.cuda.get_device_properties(card) for card in range(torch.cuda.device_count())]
    return min((card.total_memory / GB for card in cards), default=inf)


def room_gb(settings: Settings) -> float:
    """What a step may take in one process of a trial: the usable part of its share of the device."""
    if takes_gpu(settings):
        gpus = settings.resources.gpus_per_trial
        share = settings.hardware.memory_fraction or min(1.0, 0.5 if gpus is None else gpus)
    else:
        share = min(1.0, (settings.resources.cpus_per_trial or 1) / len(os.sched_getaffinity(0)))
    return USABLE * share * device_gb(settings)


def step_gb(settings: Settings, patches: int | None = None) -> float:
    """What a training step takes in one process of a trial; patches: of one forward pass, None: as the settings say."""
    workers = num_workers(settings)
    channels, each = open_source(settings.data).in_channels, ceil(settings.trainer.batch_size / workers)
    asked = {"in_channels": channels, "patches": patches or each, "workers": workers}
    return step_bytes(_of_trial(settings), gpu=takes_gpu(settings), **asked) / GB


def _of_trial(settings: Settings) -> TrialSettings:
    sections = {name: getattr(settings, name) for name in ("data", "model", "trainer", "hardware", "task")}
    return TrialSettings(**sections)


def of_trial(settings: Settings, trial: Sections) -> Settings:
    """The settings of one trial, see `laid_over`; for batch=auto with the batch that fits."""
    own = laid_over(settings, trial)
    return fitted(own) if settings.batch == "auto" else own


def fitted(settings: Settings) -> Settings:
    """The settings with the largest batch per forward pass that fits, of those into which an optimiser step's patches
    can be divided evenly; the smallest where none fits. SettingsError where the memory of the card is not known.

    An optimiser step has as many patches as before, and so has validation.
    """
    trainer, workers, room = settings.trainer, num_workers(settings), room_gb(settings)
    rule = "how much a card holds is not known here, for this machine has none"
    require(room < inf, "batch", "auto", rule, "Give hardware=l40s, rtx3090, or hardware.device_memory_gb=24")
    whole = trainer.batch_size * trainer.accumulate
    rule = f"each of the trial's {workers} workers needs the same share of it"
    require(whole % workers == 0, "trainer.batch_size", trainer.batch_size, rule, f"Use a multiple of {workers}")
    sizes = [n for n in range(workers, whole + 1, workers) if whole % n == 0]

    def needed(batch: int) -> float:
        own = replace(settings, trainer=replace(trainer, accumulate=whole // batch))
        return step_gb(own, batch // workers)

    # Beside the state all grows with the patches: what the given batch needs says which to try first.
    state = state_bytes(_of_trial(settings), in_channels=open_source(settings.data).in_channels) / GB
    each = (needed(trainer.batch_size) - state) / trainer.batch_size
    tried = sizes[: max(1, bisect(sizes, room, key=lambda n: state + n * each))]
    batch = next((n for n in reversed(tried) if needed(n) <= room), sizes[0])
    validated = ceil(trainer.batch_size * trainer.validation_batches / batch)
    chosen = replace(trainer, batch_size=batch, accumulate=whole // batch, validation_batches=validated)
    return replace(settings, trainer=chosen)


def refuse_too_large(settings: Settings) -> None:
    """SettingsError where a step on a single patch needs far more than a trial has of a card."""
    room = room_gb(settings)
    if not takes_gpu(settings) or step_gb(settings) <= room or (needed := step_gb(settings, 1)) <= COMPILED * room:
        return
    raise SettingsError(
        f"data.patch={settings.data.patch}: a step of {described(settings)} on a single patch needs about "
        f"{needed:.3g} GB, and a trial has {room:.3g} GB of a card. Use a smaller patch or model.width, "
        "model.checkpointing=true, or more of a card: resources.gpus_per_trial=1"
    )


def shortages(sizes: Iterable[Settings]) -> Iterator[str]:
    """A sentence for each kind of trial whose step is not expected to fit onto its card."""
    told = set[str]()
    for own in sizes:
        if not takes_gpu(own) or (needed := step_gb(own)) <= (room := room_gb(own)):
            continue
        patches = ceil(own.trainer.batch_size / num_workers(own))
        short = f"needs about {needed:.3g} GB, and has {room:.3g} GB of a card"
        if patches > 1:
            said = (
                f"{described(own)} with {patches} patches at once {short}: where memory runs out, batches go through "
                "the network in smaller pieces. batch=auto chooses the batch beforehand"
            )
        else:
            said = (
                f"{described(own)} with a single patch at once {short}: where memory runs out, the trial fails. "
                "model.checkpointing=true or a smaller data.patch needs less"
            )
        if said not in told:
            told.add(said)
            yield said


def described(settings: Settings) -> str:
    """The network in a few words: unet of width 64 on [1,256,256]."""
    patch = ",".join(map(str, settings.data.patch))
    return f"{settings.model.name} of width {settings.model.width} on [{patch}]"
