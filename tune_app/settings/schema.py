"""The settings of a sweep: one dataclass schema, filled by Hydra from conf/ and the command line.

`Settings` is the schema; conf/ holds one YAML file per choice (data=, model=, trainer=, hardware=, search=,
experiment=). Sources, weakest first: dataclass defaults, conf/, the user's settings file and environment (see
`tune_app.settings.user`), `key=value` on the command line.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from search_spaces import Sections, flatten
from trainables.objective import Objective
from trainables.settings import (
    MOST_SEED,
    PATH,
    DataSettings,
    HardwareSettings,
    ModelSettings,
    TaskSettings,
    TrainerSettings,
    from_mapping,
    require,
    require_choice,
    require_in,
)
from trainables.tasks import get_task
from tune_app.settings.document import FORMATS
from tune_app.settings.objective import ObjectiveSettings, require_known

MOST_TRIALS = 100_000
"""Of one sweep: beyond any that ends, and what its driver has been tried with."""
MOST_SEEDS = 1000


@dataclass(kw_only=True)
class SearchSettings:
    """What is tried."""

    name: str = "optuna"
    """optuna (TPE), random or grid."""
    num_samples: int = 16
    """Trials of the sweep, the family's published configurations included; with extend=, the number of further ones."""
    grid_points: int = 4
    """Points per axis of the grid searcher (logarithmic where the axis is)."""
    presets_first: bool = True
    """Begin with the published configurations of the family."""
    startup_trials: int = 8
    """Trials before TPE leaves random sampling."""
    baseline: bool | None = None
    """Begin with the untuned baseline (of losses: uniform weights), one of the trials; ASHA never stops it. Empty: in
    every search of two trials or more, not beside preset= and trial=. With extend=, true adds it to a sweep without."""
    prior: str = field(default="", metadata=PATH)
    """Where the best is expected: a point (p=0.8,q=2, in the names of space.…), or a sweep, whose best one is taken. Up
    to search.startup_trials proposals are drawn round it, fewer where they are not worth it: docs/warm-start.md."""
    prior_width: float = 0.1
    """Standard deviation of those draws, as a share of a parameter's range on its own scale; the share of them in which
    a choice is drawn anew."""

    def __post_init__(self) -> None:
        require_choice("search.name", self.name, ("optuna", "random", "grid"))
        require_in(
            self,
            "search.",
            num_samples=f"[1, {MOST_TRIALS}]",
            grid_points="[1, 1000]",
            startup_trials="[1, inf]",
            prior_width="(0, 1]",
        )


FROM, BEST = "from", "best"
"""Of space.…, what names no parameter: an earlier sweep, and of how many of its trials the box is."""
FEWEST, BEST_OF = 2, 8
"""What space.best may be at least, and is without a word."""


@dataclass(kw_only=True)
class WarmSettings:
    """Set by space.from= and search.prior= when a sweep begins: what they said; the earlier one is not read again."""

    box_of: str = ""
    """Name of the sweep of space.from=."""
    best: int = 0
    """Of how many of its trials the box is, …"""
    trials: int = 0
    """… and of how many these were the best."""
    box: dict[str, Any] = field(default_factory=dict)
    """The box: {parameter: [low, high] or some of its options}."""
    widened: list[str] = field(default_factory=list)
    """Parameters of the box in which all of those trials were alike."""
    point: dict[str, Any] = field(default_factory=dict)
    """The point of search.prior=, on the axes of the sampler."""
    point_of: str = ""
    """The trial that it is, and of which sweep; empty for a point that was written."""


@dataclass(kw_only=True)
class SchedulerSettings:
    """When a trial is stopped early, or pauses: asynchronous successive halving (ASHA, arXiv:1810.05934)."""

    name: str = "auto"
    """asha: trials are stopped at rungs. promote: they pause there, and the best paused ones go on (docs/scheduler.md).
    none, or auto: asha for a search; none for family=compare, preset= and trial=."""
    grace_period: int = 0
    """Epochs before a trial may be stopped; 0: until the learning rate has risen (trainer.pct_start), at least 1."""
    reduction_factor: float = 4.0
    """η: at each rung the best 1/η go on."""
    compare: str = "auto"
    """What trials of different models are compared at: epochs, or device_seconds (docs/cost.md). auto: device_seconds
    where the trials of the sweep differ in what an epoch costs and are stopped (asha), else epochs. Within a model it
    is always epochs."""

    def __post_init__(self) -> None:
        require_choice("scheduler.name", self.name, ("auto", "asha", "promote", "none"))
        require_choice("scheduler.compare", self.compare, ("auto", "epochs", "device_seconds"))
        require_in(self, "scheduler.", grace_period="[0, inf]", reduction_factor="(1, inf]")
        require(
            self.name != "promote" or self.compare != "device_seconds",
            "scheduler.compare",
            self.compare,
            "paused trials are compared at epochs",
            "Use scheduler.compare=epochs, or scheduler.name=asha",
        )


def grace_period(given: int, epochs: int, pct_start: float) -> int:
    """Epochs before ASHA may stop a trial; given = 0: until the learning rate has risen."""
    return min(epochs, given or max(1, math.ceil(pct_start * epochs)))


@dataclass(kw_only=True)
class ResourceSettings:
    """What one trial takes, and what a machine started by us offers."""

    cpus_per_trial: float | None = None
    """CPUs per trial, and where it has several workers of each of them; empty: 1 without GPUs, else up to 4."""
    gpus_per_trial: float | None = None
    """GPUs per trial: a fraction shares a card, 2 and more are cards of one node with a worker each; empty: 0.5 where
    the cluster has GPUs, else 0."""
    workers_per_trial: int = 0
    """Processes of a trial, which share every batch, each with a GPU where there are GPUs; 0: as many as GPUs."""
    max_concurrent: int = 0
    """Trials at once at most; 0: as many as fit."""
    max_failures: int = 2
    """Restarts of a trial whose worker died, each from its last epoch. The loss of a node does not count."""
    num_cpus: int = 0
    """CPUs of the Ray we start; 0: those this process may use."""
    num_gpus: int = -1
    """GPUs of the Ray we start; -1: those CUDA sees."""

    def __post_init__(self) -> None:
        require_in(
            self,
            "resources.",
            cpus_per_trial="(0, inf]",
            workers_per_trial="[0, 64]",
            num_cpus="[0, inf]",
            num_gpus="[-1, inf]",
            max_concurrent="[0, inf]",
            max_failures="[0, inf]",
        )
        gpus = self.gpus_per_trial
        require(
            gpus is None or 0 <= gpus <= 1 or (gpus > 1 and gpus % 1 == 0),
            "resources.gpus_per_trial",
            gpus,
            "a fraction in [0, 1] or a whole number",
            "Use 0.5",
        )
        cards = int(gpus or 0)
        require(
            self.workers_per_trial in (0, max(1, cards)) or not gpus,
            "resources.workers_per_trial",
            self.workers_per_trial,
            f"with resources.gpus_per_trial={gpus or 0:g} every worker has a card of its own",
            f"Leave it out, or give resources.gpus_per_trial={self.workers_per_trial}, or 0 for workers on CPUs",
        )


@dataclass(kw_only=True)
class ClusterSettings:
    """Which Ray the sweep runs on."""

    name: str = "local"
    """local: a Ray of its own on this machine, ended with the sweep. Else the user's running cluster of that name, see
    docs/longleaf.md; cluster=longleaf sets it."""
    address: str = ""
    """Address (host:port) of the head of a Ray cluster that somebody else started."""
    token_path: str = field(default="", metadata=PATH)
    """File with its token; empty: that of the named cluster, else $RAY_AUTH_TOKEN_PATH, else Ray's own."""
    dashboard: bool = True
    """Serve the Ray dashboard on loopback, behind a token."""
    dashboard_port: int = 0
    """Its port; 0: a free one."""
    temp_dir: str = field(default="", metadata=PATH)
    """Folder for Ray's session (in ray/ of it), a short path on local disk that nobody else can enter, made when
    absent; empty: a new one in the system's temporary folder."""
    standstill_s: float = 60.0
    """Seconds without a running trial after which the sweep ends, where no node lives or Ray's workers keep dying."""

    def __post_init__(self) -> None:
        require_in(self, "cluster.", standstill_s="(0, inf]", dashboard_port="[0, 65535]")

    @property
    def remote(self) -> bool:
        """True where the sweep runs on a cluster that was there before it."""
        return bool(self.address) or self.name != "local"


@dataclass(kw_only=True)
class CheckpointSettings:
    """What a sweep may keep on disk. Not counted are the last two epochs of a running trial, and what
    trainer.keep_checkpoint_every keeps."""

    max_number: int = 20
    """Best checkpoints kept of finished trials, by score."""
    max_gb: float = 20.0
    """Their total size, gigabytes."""

    def __post_init__(self) -> None:
        require_in(self, "checkpoints.", max_number="[1, inf]", max_gb="(0, inf]")


@dataclass(kw_only=True)
class DiagnosisSettings:
    """When something has gone wrong in a trial, see `tune_app.results.diagnosis` and docs/diagnoses.md."""

    stop_hopeless: bool = True
    """End trials that have diverged or collapsed: nothing better is to come."""
    diverged_growth: float = 100.0
    """diverged: the norm of all weights is this many times that before the first step, …"""
    diverged_loss: float = 0.05
    """… or no class's training loss, without its weight in [0, 1], is below that of epoch 1 for two epochs, although
    one has been below it by this much. Above 1: never."""
    collapsed_sd: float = 1e-4
    """collapsed: σ(logit) varies by less than this (standard deviation over voxels) in every class, …"""
    collapsed_band: float = 100.0
    """… or no class has between 1/100 and 100 times its true foreground; …"""
    collapsed_epochs: int = 3
    """… for so many epochs. one_class: all predictions are of one class for so many epochs."""
    uniform_spread: float = 1e-4
    """uniform_output, of tasks of one class: Var(p) is less than this share of p̄(1 − p̄) for as many epochs."""
    foreground_odds: float = 10.0
    """foreground_collapse, likewise: the odds of the predicted foreground are this many times those of the labels', or
    as much below, for as many epochs."""
    overflow_share: float = 0.1
    """amp_overflow: more than this share of the steps was skipped in each of two epochs after the first."""
    dead_epochs: int = 5
    """dead_class: no voxel of a class that is there was predicted for so many epochs."""
    degraded_epochs: int = 5
    """late_degradation: the best epoch is so many epochs past, …"""
    degraded_dice: float = 0.1
    """… and better than the last of them by this much, in the figure that ranks (mean Dice without a word)."""
    plateau_epochs: int = 10
    """plateau: in so many epochs, at more than a tenth of the highest learning rate, …"""
    plateau_dice: float = 0.002
    """… that figure has gained less than this."""

    def __post_init__(self) -> None:
        for kinds, interval in (
            (("collapsed_epochs", "dead_epochs", "degraded_epochs", "plateau_epochs"), "[1, inf]"),
            (("diverged_growth", "collapsed_band", "foreground_odds"), "(1, inf]"),
            (("diverged_loss", "collapsed_sd", "uniform_spread", "degraded_dice", "plateau_dice"), "[0, inf]"),
            (("overflow_share",), "[0, 1)"),
        ):
            require_in(self, "diagnosis.", **dict.fromkeys(kinds, interval))


@dataclass(kw_only=True)
class Settings:
    """Everything that makes a sweep: what `python -m tune_app.run` takes, and sweep.yaml keeps."""

    family: str = "seesaw"
    """A file of search_spaces/, or all (conditional search over the families of losses), or compare (the 15 published
    configurations)."""
    families: list[str] = field(default_factory=list)
    """Set by experiment=: the families of losses that family=all searches and whose presets family=compare trains.
    Empty: those of class weightings, and the 15 published configurations."""
    preset: str = ""
    """Train this one named configuration at full budget instead of searching."""
    trial: str = field(default="", metadata=PATH)
    """Train the configuration of this exported config.yaml instead of searching."""
    final: str = field(default="", metadata=PATH)
    """Train the configuration of this export (best/1) once more, on training and validation crops together, and export
    it from the sweep's folder; nothing is left to validate it on."""
    resume: str = field(default="", metadata=PATH)
    """Resume this sweep: latest, a name, or a folder."""
    extend: str = field(default="", metadata=PATH)
    """Add search.num_samples trials to this finished sweep: latest, a name, or a folder."""
    experiment_name: str = ""
    """Set by experiment=; recorded in the manifest."""
    try_out: str = ""
    """Set by experiment=: what tries it out on generated data and any machine, where there is something."""
    batch: str = "given"
    """given: trainer.batch_size patches to a forward pass. auto: as many as fit into the memory of a trial; a step of
    the optimiser has trainer.batch_size · trainer.accumulate of them either way."""
    space: dict[str, Any] = field(default_factory=dict)
    """Narrow the family's space: space.p=0.8 fixes, space.p=[0.5,1.2] narrows. space.from=SWEEP looks first in the
    smallest box round the best space.best=8 trials of an earlier sweep: docs/warm-start.md."""
    frequencies: str = field(default="sampled", metadata=PATH)
    """Class counts behind derived static weights: sampled (voxels as training patches show them), data (every voxel of
    the training crops once), published, or a JSON file."""
    seed: int = 0
    """Seed of the search and of every trial (initial weights, patch order); not given, with trial= the exported one."""
    seeds: int = 1
    """Repeats of each arm of compare, preset= and trial=, with seeds seed, seed + 1, …"""
    results_dir: str = field(default="results", metadata=PATH)
    """Folder that holds one folder per sweep."""
    name: str = ""
    """Name of the sweep folder; empty: date, time and family."""
    verbose: int = 0
    """0: our table only; 1 and 2: Ray's own messages too."""
    wandb_project: str = ""
    """Log to this Weights & Biases project through Ray's callback; empty: off."""
    data: DataSettings = field(default_factory=DataSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    resources: ResourceSettings = field(default_factory=ResourceSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    diagnosis: DiagnosisSettings = field(default_factory=DiagnosisSettings)
    warm: WarmSettings = field(default_factory=WarmSettings)

    def __post_init__(self) -> None:
        for key, value in flatten(asdict(self)).items():
            numbers = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, float)]
            require(
                all(map(math.isfinite, numbers)), key, value, "must be a finite number", "Leave it out for its default"
            )
        require_choice("batch", self.batch, ("given", "auto"))
        require_in(self, "", seed=f"[0, {MOST_SEED}]", seeds=f"[1, {MOST_SEEDS}]", verbose="[0, 2]")
        chosen = [name for name in ("resume", "extend", "trial", "preset", "final") if getattr(self, name)]
        both = " ".join(f"{name}={getattr(self, name)}" for name in chosen)
        require(len(chosen) < 2, *both.rpartition("=")[::2], "only one of them may be given", "Drop the others")
        require(not self.final or self.seeds == 1, "seeds", self.seeds, "final= trains one network", "Leave it out")
        if self.family == "all" and len(self.families) == 1:
            self.family = self.families[0]
        self._require_warm()
        if (order := self.order).bounds or self.objective.metric:
            require_known(order, get_task(self.task.name, self.task.options), self.data.classes)

    def _require_warm(self) -> None:
        """SettingsError where space.from= and space.best= make no sense, or no earlier sweep can help."""
        best, fix = self.space.get(BEST), f"Use space.best={BEST_OF}, or leave it out"
        require(
            best is None or (type(best) is int and best >= FEWEST),
            "space.best",
            best,
            f"a box is of a whole number of trials, {FEWEST} or more",
            fix,
        )
        require(best is None or FROM in self.space, "space.best", best, "is of the trials of space.from=", "Give both")
        sweep = self.space.get(FROM)
        require(
            FROM not in self.space or bool(str(sweep or "")), "space.from", sweep, "a sweep is needed", "Use latest"
        )
        listed = self.search.name == "grid"
        for key, given in (("space.from", sweep), ("search.prior", self.search.prior)):
            require(
                not given or not listed, key, given, "a grid is listed beforehand", "Use search=optuna, or leave it out"
            )

    @property
    def narrowed(self) -> dict[str, Any]:
        """How the space is narrowed by hand: what of space.… names parameters."""
        return {name: value for name, value in self.space.items() if name not in (FROM, BEST)}

    @property
    def order(self) -> Objective:
        """What is best: the order of the rows of all trials."""
        return self.objective.of(get_task(self.task.name, self.task.options))

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dict, ready for YAML or JSON."""
        return asdict(self)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the network tells apart: of data.classes those that the task learns. SettingsError where none fit."""
        from trainables.tasks import get_task  # takes seconds to import

        return get_task(self.task.name, self.task.options).outputs(self.data.classes)

    @property
    def single_arms(self) -> bool:
        """True where the arms are listed beforehand (compare, preset=, trial=) and nothing is searched."""
        return bool(self.family == "compare" or self.preset or self.trial)

    @property
    def early_stopping(self) -> bool:
        return self.scheduler.name in ("asha", "promote") or (self.scheduler.name == "auto" and not self.single_arms)

    @property
    def listed(self) -> bool:
        """True where all trials are known beforehand: single arms, or a grid."""
        return self.single_arms or self.search.name == "grid"

    @property
    def grace_period(self) -> int:
        """Epochs before ASHA may stop a trial."""
        return grace_period(self.scheduler.grace_period, self.trainer.epochs, self.trainer.pct_start)


NOTIFY_WORDS = ("sweep", "event", "best", "message", "folder")
"""What notify.command may have in braces."""


@dataclass(kw_only=True)
class NotifySettings:
    """Who is told how it ends."""

    command: str = field(default="", metadata=PATH)
    """Program with its words, run without a shell when a sweep or a confirmation ends, fails, or has waited for an
    hour; {sweep}, {event}, {best}, {message} and {folder} in it are filled in: docs/notify.md."""

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            words = []
            require(False, "notify.command", self.command, f"cannot be split into words ({error})", "Close the quotes")
        unknown = [name for word in words for name in re.findall(r"\{(\w+)\}", word) if name not in NOTIFY_WORDS]
        require(
            not unknown,
            "notify.command",
            self.command,
            f"{{{''.join(unknown[:1])}}} stands for nothing",
            f"Choices: {', '.join(f'{{{name}}}' for name in NOTIFY_WORDS)}",
        )


@dataclass(kw_only=True)
class RunSettings(Settings):
    """What `python -m tune_app.run` takes: the settings of the sweep, and how it is told of, which no sweep keeps."""

    format: str = "table"
    """table, or json: one document at the end (docs/json.md)."""
    live: bool = False
    """Keep report.html in the sweep's folder up to date while it runs (report follow=true), and say where it lies."""
    notify: NotifySettings = field(default_factory=NotifySettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("format", self.format, FORMATS)


VARIED: dict[str, tuple[str, ...]] = {
    "model": tuple(ModelSettings.__annotations__),
    "trainer": tuple(name for name in TrainerSettings.__annotations__ if name not in ("epochs", "keep_epoch")),
    "data": ("sampling", "mirror", "mirror_y", "mirror_z", "transpose", "rotate_degrees", "gain", "patch"),
    "resources": ("cpus_per_trial", "gpus_per_trial", "workers_per_trial"),
}
"""What may differ between the trials of one sweep. The budget, the classes and the crops may not: scores and curves
would not be comparable. Patches of different sizes see the same voxels where data.validation_patch says which."""


def model_of(config: Mapping[str, Any]) -> str:
    """Network and patch, as text: equal for trials that are compared at equal epochs, whatever they are compared at
    otherwise. config: of a trial, or the settings of one as plain values.

    The rest is no part of it: epochs of other batches or on other devices are still epochs of the same network. What a
    config of an earlier version does not name has its default.
    """
    network = asdict(ModelSettings()) | (config.get("model") or {})
    patch = (config.get("data") or {}).get("patch") or DataSettings().patch
    return json.dumps([network, [int(side) for side in patch]], sort_keys=True)


def laid_over(settings: Settings, trial: Sections) -> Settings:
    """The settings of one trial: the sweep's under the sections that its point gave. SettingsError where they do not
    fit.

    Every trial is validated on as many patches, whatever its batch size.
    """
    sections = {name: dict(values) for name, values in trial.items() if name != "loss" and values}
    for name, values in sections.items():
        require(
            name in VARIED, "section", name, "a family gives no such section", f"Choices: loss, {', '.join(VARIED)}"
        )
        for key, value in values.items():
            require(
                key in VARIED[name],
                f"{name}.{key}",
                value,
                "a family cannot set it for single trials",
                f"Choices: {', '.join(VARIED[name])}",
            )
    trainer = sections.get("trainer", {})
    if "batch_size" in trainer and "validation_batches" not in trainer:
        patches = settings.trainer.batch_size * settings.trainer.validation_batches
        trainer["validation_batches"] = max(1, math.ceil(patches / trainer["batch_size"]))
    if not sections:
        return settings
    own = {name: asdict(getattr(settings, name)) | values for name, values in sections.items()}
    model = sections.get("model", {})
    if "options" in model and "name" not in model:  # of the same network: what the point does not name stays
        own["model"]["options"] = settings.model.options | model["options"]
    return replace(settings, **{name: from_mapping(type(getattr(settings, name)), own[name], name) for name in own})


def compares_device_seconds(settings: Settings, sizes: Iterable[Settings]) -> bool:
    """Whether early stopping compares trials of different models at what they have spent, and not at epochs.

    sizes: the settings of the trials of the sweep, or of some that stand for them.
    """
    stops = settings.early_stopping and settings.scheduler.name != "promote"
    compare = settings.scheduler.compare if stops else "epochs"
    return compare == "device_seconds" or (compare == "auto" and len({model_of(asdict(own)) for own in sizes}) > 1)


POPULATIONS = ("sampled", "data")
"""Voxels that can be counted: as patches show them, or each voxel of the crops once."""
