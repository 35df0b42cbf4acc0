"""What one trial is told: data, model, trainer, hardware. Plain dataclasses, checked when made.

Every field has its unit in the name or in the sentence below it. `tune_app.settings.schema` nests these into the
settings of a sweep; `trial_settings` turns the plain dict of a trial's config back into them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from math import inf
from typing import Any, TypeVar

import yaml

from trainables.errors import SettingsError

FIVE_CLASSES = ("nuc", "mito_mem", "er_mem", "pm", "golgi_mem")
FOURTEEN_CLASSES = (
    *("ecs", "pm", "mito_mem", "mito_lum", "mito_ribo", "golgi_mem", "golgi_lum"),
    *("ves_mem", "ves_lum", "endo_mem", "endo_lum", "er_mem", "er_lum", "nuc"),
)
"""Those of the model comparison, in the order of its channels: data=cellmap14, data=phantom14."""
MOST_SEED = 2**63 - 1
MOST_STEPS = 1_000_000
"""Of anything that is counted in a trial: more is a slip of the finger, and ends in a lack of memory or never."""


def require(condition: bool, name: str, value: object, rule: str, fix: str) -> None:
    """Raise SettingsError unless `condition`: name, value, rule and fix in one sentence."""
    if not condition:
        raise SettingsError(f"{name}={value}: {rule}. {fix}")


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    require(value in choices, name, value, f"choose one of {', '.join(choices)}", f"For example {name}={choices[0]}")


def require_in(settings: object, section: str, **intervals: str) -> None:
    """Raise SettingsError unless each named setting lies in its interval, "[1, inf)" or "(0, 1)"; None lies in all."""
    for name, interval in intervals.items():
        low, high = (int(end) if end.strip("-").isdigit() else float(end) for end in interval[1:-1].split(", "))
        value = getattr(settings, name)
        inside = value is None or (
            (low < value or (interval[0] == "[" and low == value))
            and (value < high or (interval[-1] == "]" and value == high))
        )
        default = next(field.default for field in fields(settings) if field.name == name)  # type: ignore[arg-type]
        fix = "Leave it out" if default is None else f"Its default is {default}"
        rule = f"lie in {interval}" if high < inf else f"be {'above' if interval[0] == '(' else 'at least'} {low}"
        require(inside, f"{section}{name}", value, f"must {rule}", fix)


PATH = {"path": True}
"""Metadata of a field that holds a path: on the command line it is written as in any shell."""


@dataclass(kw_only=True)
class TaskSettings:
    """What is learnt."""

    name: str = "multilabel"
    """A file of trainables/tasks. multilabel: several classes, each there or not in every voxel. binary: one class,
    and the threshold that suits it best. classification: one label for each volume."""
    options: dict[str, Any] = field(default_factory=dict)
    """What only this task has, checked in its file: task.options.NAME=VALUE."""


@dataclass(kw_only=True)
class DataSettings:
    """Where the volumes lie and what a patch is."""

    name: str = "phantom"
    """A file of trainables/data/sources. phantom: generated, for trying things out. cellmap: the layout of CellMap.
    raster_series: rasters over time, and the mask of the next one. labelled_volumes: images and labels, 0, 1 or 2 for
    unlabelled. classified_volumes: one label for each volume."""
    root: str = field(default="", metadata=PATH)
    """Folder that holds {dataset}/{dataset}.zarr, with name=raster_series channels.json and a folder per series, with
    name=labelled_volumes images and labels, with name=classified_volumes the volumes and labels.csv. Empty with any of
    them but cellmap: the generated data in the cache."""
    split_file: str = field(default="", metadata=PATH)
    """datasplit.csv. Empty: root/datasplit.csv where it exists, else one written into the cache folder. With
    name=raster_series or labelled_volumes split.csv in the root, else drawn."""
    cache_dir: str = field(default="", metadata=PATH)
    """Node-local folder of packed crops and the phantom. Empty: $TUNE_APP_CACHE or ~/.cache/tune_app."""
    classes: list[str] = field(default_factory=lambda: list(FIVE_CLASSES))
    """Class names, in channel order; auto: all that the crops annotate, by name."""
    voxel_nm: list[float] = field(default_factory=lambda: [8.0, 8.0, 8.0])
    """Target voxel size z, y, x in nanometres."""
    intensity: list[float] = field(default_factory=list)
    """Grey values [low, high] between which images are clipped and scaled to [0, 1], for example [10.6,194.1]; empty:
    [0, 255]."""
    patch: list[int] = field(default_factory=lambda: [1, 256, 256])
    """Patch size z, y, x in target voxels; z = 1 is 2D."""
    validation_patch: list[int] = field(default_factory=list)
    """Boxes z, y, x that are validated on, tiled by patches, so that networks of different patches see the same voxels;
    empty: trainer.validation_batches of patches."""
    validation_boxes: int = 0
    """Number of these boxes."""
    sampling: str = "crop"
    """crop: every training crop equally likely. volume: by its volume. class_aware: rare classes first (a treatment
    of its own: it confounds a comparison of loss weightings)."""
    train_on: str = "train"
    """train, or all: the validation crops too, so that no score says anything any more. `final=` sets it."""
    maps: bool = False
    """Pack signed distances and skeletons of the classes beside their labels, for the terms boundary, boundary_band and
    skeleton_recall of a loss. In voxels; for patches of one slice, slice by slice."""
    label_resampling: str = "nearest"
    """nearest or majority, where labels are resampled to the target voxel size."""
    validation_fraction: float = 0.15
    """Share of the crops on the validation side when a split has to be written."""
    split_seed: int = 0
    """Seed of the split and of the fixed validation patches."""
    split_by_dataset: bool = False
    """Keep all crops of one dataset on one side."""
    mirror: bool = True
    """Mirror y and x, each with probability 0.5."""
    mirror_y: bool = True
    """With mirror: y, too; false: x alone, where up and down are not alike."""
    mirror_z: bool = False
    """Mirror z, too, with probability 0.5; for 3D patches. All other augmentation stays in the slice plane."""
    transpose: bool = True
    """Exchange y and x with probability 0.5."""
    rotate_degrees: float = 180.0
    """Rotate in the slice plane by a uniform angle within ± this; 0 switches it off."""
    gain: float = 0.0
    """Multiply the grey values of a patch by a uniform factor within 1 ± this; 0 switches it off."""
    options: dict[str, Any] = field(default_factory=dict)
    """What only this source has, checked in its file: data.options.NAME=VALUE."""

    def __post_init__(self) -> None:
        require_choice("data.sampling", self.sampling, ("crop", "volume", "class_aware"))
        require_choice("data.train_on", self.train_on, ("train", "all"))
        require_choice("data.label_resampling", self.label_resampling, ("nearest", "majority"))
        require(len(self.classes) > 0, "data.classes", self.classes, "at least one class is needed", "Add one")
        require(
            len(set(self.classes)) == len(self.classes),
            "data.classes",
            self.classes,
            "no class may appear twice",
            "Drop the repeated one",
        )
        for name, value in (("voxel_nm", self.voxel_nm), ("patch", self.patch)):
            require(
                len(value) == 3 and all(v > 0 for v in value),
                f"data.{name}",
                value,
                "three positive numbers z, y, x are needed",
                f"Write data.{name}=[1,64,64]",
            )
        if self.validation_patch:
            box, patch = self.validation_patch, ",".join(map(str, self.patch))
            rule = f"three sides are needed, multiples of those of data.patch=[{patch}]"
            fits = len(box) == 3 and all(b > 0 and b % p == 0 for b, p in zip(box, self.patch))
            require(fits, "data.validation_patch", box, rule, f"For example [{patch}]")
        require(
            bool(self.validation_patch) == bool(self.validation_boxes),
            "data.validation_boxes",
            self.validation_boxes,
            f"goes with data.validation_patch={self.validation_patch}: both or none",
            "For example data.validation_patch=[32,256,256] data.validation_boxes=32",
        )
        require_in(self, "data.", validation_boxes=f"[0, {MOST_STEPS}]")
        require(
            not self.mirror_z or self.patch[0] > 1,
            "data.mirror_z",
            self.mirror_z,
            f"a patch of one slice, data.patch={list(self.patch)}, has no z to mirror",
            "Leave it out, or use a 3D patch, for example data.patch=[32,256,256]",
        )
        low, high = self.intensity if len(self.intensity) == 2 else (0, 0)
        require(
            not self.intensity or 0 <= low < high <= 255,
            "data.intensity",
            self.intensity,
            "two grey values 0 ≤ low < high ≤ 255 are needed",
            "Write data.intensity=[10.6,194.1], or leave it empty",
        )
        require_in(
            self,
            "data.",
            validation_fraction="(0, 1)",
            split_seed=f"[0, {MOST_SEED}]",
            rotate_degrees="[0, 180]",
            gain="[0, 1)",
        )


@dataclass(kw_only=True)
class ModelSettings:
    """The network."""

    name: str = "unet"
    """A file of trainables/models: unet, resnet, swin, vit, emberformer for series of rasters, or volume_classifier for
    one label per volume. 2D where the patch is one slice thick, else 3D (emberformer, unet2d: in 2D only,
    volume_classifier in 3D only)."""
    width: int = 64
    """Channels of the first level; 64 gives the published UNet of 31 036 741 parameters at five classes."""
    depth: int = 4
    """Number of halvings; unet and resnet take patches whose sides are divisible by 2**depth. swin: 5, vit: 4.
    emberformer: temporal layers, 3 as published."""
    output_bias: str = "drawn"
    """Bias of the last layer at the start: drawn, as the architecture draws it, or prior, the log odds of each class in
    the training patches: a rare class begins at its share and not at ½. A loss that shifts logits does that, too."""
    options: dict[str, Any] = field(default_factory=dict)
    """What only this architecture takes, for example model.options.norm=instance: see docs/models.md."""
    checkpointing: bool = False
    """Forget what the blocks of the network have put out and compute it again in the backward pass: less memory, more
    time, the same training."""

    def __post_init__(self) -> None:
        require_choice("model.output_bias", self.output_bias, ("drawn", "prior"))
        require_in(self, "model.", width="[1, 1024]", depth="[1, 6]")


@dataclass(kw_only=True)
class TrainerSettings:
    """One trial's training: the budget, the optimiser and the schedule."""

    epochs: int = 60
    """Epochs per trial at full budget."""
    iterations_per_epoch: int = 100
    """Optimiser steps per epoch."""
    batch_size: int = 24
    """Patches per forward pass."""
    accumulate: int = 1
    """Batches per optimiser step."""
    pool_accumulated: bool = True
    """The loss of a step is that of all its batches together, as of one large batch, for a second forward pass of all
    but one; false: the mean of their losses. Nothing with accumulate=1."""
    validation_batches: int = 20
    """Fixed validation batches of `batch_size` patches."""
    optimizer: str = "adamw"
    """adamw or sgd."""
    lr: float = 1e-4
    """Highest learning rate of the schedule."""
    lr_encoder: float = 0.0
    """That of the encoder of a network that has one, in the same schedule; 0: as the rest."""
    unfreeze_epoch: int = 0
    """Epoch from which on the encoder of a network that has one is trained; 0: from the first step, -1: never."""
    cached_views: int = 0
    """Augmented views of each training volume of which the output of an encoder is kept while it is frozen, in the
    cache folder, so that only the head is computed; 0: the encoder sees new views in every step."""
    weight_decay: float = 1e-4
    """Weight decay of the optimiser; in sgd it is part of the gradient."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW betas."""
    momentum: float = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov's form of that momentum."""
    schedule: str = "one_cycle"
    """one_cycle, cosine (to 0, see restarts), plateau (falls where the objective stands still) or constant."""
    pct_start: float = 0.05
    """Share of the steps in which the learning rate of one_cycle rises."""
    restarts: int = 0
    """How often cosine begins again at the highest rate, in periods of equal length."""
    plateau_factor: float = 0.5
    """What plateau multiplies the learning rate with."""
    plateau_patience: int = 5
    """Epochs without a better figure after which plateau does so."""
    warmup_steps: int = 0
    """First optimiser steps, in which the learning rate rises linearly to the schedule's."""
    swa_from: int = 0
    """Epoch from which on the weights after each epoch are averaged, and the average is validated and kept (SWA);
    0: never."""
    plateau_multiplier: list[float] = field(default_factory=list)
    """[a, b]: at the k-th plateau, of more than plateau_patience epochs without a better figure, the learning rate of
    whatever schedule is multiplied by a + (k − 1)·b, on top of what it was before; empty: never."""
    noise_std: float = 0.0
    """Standard deviation of the noise that is added to every weight before some epochs; 0: none."""
    noise_from: int = 1
    """First epoch with noise before it."""
    noise_every: int = 1
    """Epochs from one noise to the next."""
    published_epochs: int = 0
    """Epochs of the training that swa_from, noise_from, noise_every, plateau_patience and the curriculum of a loss are
    meant for: in one of fewer epochs they are as many fewer. 0: they are meant for this one."""
    clip_grad_norm: float = 1.0
    """Gradient norm limit; 0 switches clipping off."""
    compile: bool = True
    """torch.compile the training and the evaluation step."""
    keep_epoch: int = 0
    """Epoch whose weights are kept; 0: the best one by the objective. `final=` sets it."""
    patience: int = 0
    """Epochs without a better figure after which a trial ends by itself; 0: never."""
    min_delta: float = 0.0
    """By how much a figure must be better to count for that."""
    checkpoint_every: int = 1
    """Epochs between checkpoints; a restart repeats at most this many."""
    keep_checkpoint_every: int = 0
    """Epochs between weights that are kept for good, beside the best and the last; 0: none. They lie outside
    checkpoints.max_number and max_gb, and `export epoch=` takes them."""
    count_update_every: int = 50
    """Optimiser steps between two updates of the count-based class weights; 50 is published."""
    count_window: str = "50"
    """Optimiser steps over which positives are averaged for class_balanced; `all`: the published running total."""

    def __post_init__(self) -> None:
        counted, steps = f"[1, {MOST_STEPS}]", self.epochs * self.iterations_per_epoch
        require_in(
            self,
            "trainer.",
            epochs=counted,
            iterations_per_epoch=counted,
            batch_size=counted,
            accumulate=counted,
            validation_batches=counted,
            checkpoint_every=counted,
            count_update_every=counted,
            keep_checkpoint_every=f"[0, {MOST_STEPS}]",
            plateau_patience=f"[0, {MOST_STEPS}]",
            patience=f"[0, {MOST_STEPS}]",
            min_delta="[0, inf]",
            unfreeze_epoch=f"[-1, {MOST_STEPS}]",
            cached_views="[0, 1000]",
            plateau_factor="(0, 1)",
            noise_std="[0, inf]",
            noise_from=counted,
            noise_every=counted,
            published_epochs=f"[0, {MOST_STEPS}]",
            momentum="[0, 1)",
            lr="(0, inf]",
            lr_encoder="[0, inf]",
            weight_decay="[0, inf]",
            clip_grad_norm="[0, inf]",
            pct_start="(0, 1)",
        )
        for name, most, what in (
            ("keep_epoch", self.epochs, "trainer.epochs"),
            ("swa_from", self.published_epochs or self.epochs, "trainer.epochs, or trainer.published_epochs"),
            ("restarts", steps - 1, "steps of the training − 1"),
            ("warmup_steps", steps, "steps of the training"),
        ):
            value = getattr(self, name)
            require(0 <= value <= most, f"trainer.{name}", value, f"must lie in [0, {most}] ({what})", "Use 0 for none")
        factors = self.plateau_multiplier
        require(
            not factors or (len(factors) == 2 and factors[0] > 0 and factors[1] >= 0),
            "trainer.plateau_multiplier",
            factors,
            "two numbers a > 0 and b ≥ 0 are needed, or none",
            "Use [1,0.3]",
        )
        require_choice("trainer.optimizer", self.optimizer, ("adamw", "sgd"))
        require_choice("trainer.schedule", self.schedule, ("one_cycle", "cosine", "plateau", "constant"))
        require(
            not self.nesterov or self.momentum > 0,
            "trainer.nesterov",
            self.nesterov,
            "Nesterov's form needs trainer.momentum > 0",
            "Use trainer.momentum=0.9",
        )
        require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "trainer.betas",
            self.betas,
            "two numbers in [0, 1) are needed",
            "Use [0.9,0.999]",
        )
        require(
            self.count_window == "all" or (self.count_window.isdigit() and int(self.count_window) > 0),
            "trainer.count_window",
            self.count_window,
            "a positive number of batches or `all`",
            "Use 50",
        )

    def epochs_here(self, epochs: int) -> int:
        """An epoch or a number of epochs that is meant for `published_epochs`, in this training; 0 stays 0."""
        return max(1, round(epochs * self.epochs / (self.published_epochs or self.epochs))) if epochs else 0


@dataclass(kw_only=True)
class HardwareSettings:
    """How arithmetic is done."""

    name: str = "auto"
    """auto, cpu, rtx3090 or l40s: the file in conf/hardware that set the rest."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu or cuda."""
    precision: str = "auto"
    """Autocast of the model: auto (bf16 from compute capability 8.9, else fp16; off on CPU), fp16 with GradScaler,
    bf16 (on the CPU for networks in 2D only) or off. The loss is float32 always."""
    tf32: bool = True
    """TF32 matrix products and cudnn.benchmark on CUDA."""
    channels_last: bool = True
    """Memory format of the model and its input."""
    threads: int = 0
    """Threads per trial; 0: the CPUs the trial asked for, 4 on the published machine."""
    memory_fraction: float = 0.0
    """Share of the GPU memory the process may allocate; 0: the trial's share of the GPU."""
    device_memory_gb: float = 0.0
    """Memory of a card in GB, for what is said and chosen (batch=auto) before a trial starts; 0: as found on this
    machine; where trials take no GPU, its main memory."""

    def __post_init__(self) -> None:
        require_choice("hardware.device", self.device, ("auto", "cpu", "cuda"))
        require_choice("hardware.precision", self.precision, ("auto", "fp16", "bf16", "off"))
        require_in(self, "hardware.", threads="[0, 1024]", memory_fraction="[0, 1]", device_memory_gb="[0, 10000]")


@dataclass(kw_only=True)
class TrialSettings:
    """Everything a trial needs but its loss: built from the plain dict of its config."""

    data: DataSettings
    model: ModelSettings
    trainer: TrainerSettings
    hardware: HardwareSettings
    task: TaskSettings = field(default_factory=TaskSettings)
    objective: dict[str, Any] = field(default_factory=dict)
    """metric, mode, at_least, at_most, see `trainables.objective`; empty: as the task says."""


T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], prefix: str) -> T:
    """Build a settings dataclass from a mapping; an unknown key is a SettingsError that lists the valid ones."""
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        require(
            key in known,
            f"{prefix}.{key}",
            values[key],
            f"{prefix} has no such setting",
            f"Choices: {', '.join(known) or 'none, leave it out'}",
        )
    return cls(**values)


def network_names() -> tuple[str, ...]:
    """The choices of `model=` on the command line, sorted."""
    names = (entry.name for entry in _presets().iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def network_preset(name: str) -> dict[str, dict[str, Any]]:
    """What `model=NAME` sets on the command line: model, and where its file says so data, trainer and resources.

    {"model": {"name": "vit", "width": 68, …}, "data": {"patch": [1, 256, 256]}, "trainer": {"batch_size": 20, …}, …}
    Raises SettingsError for an unknown name.
    """
    require_choice("model", name, network_names())
    sections: dict[str, dict[str, Any]] = yaml.safe_load((_presets() / f"{name}.yaml").read_text(encoding="utf-8"))
    return sections


def _presets() -> Traversable:
    return files("trainables") / "conf" / "model"


def trial_settings(config: Mapping[str, Any]) -> TrialSettings:
    """The typed settings of a trial config; a section or a setting that it does not name has its default."""
    return TrialSettings(
        data=from_mapping(DataSettings, config.get("data") or {}, "data"),
        model=from_mapping(ModelSettings, config.get("model") or {}, "model"),
        trainer=from_mapping(TrainerSettings, config.get("trainer") or {}, "trainer"),
        hardware=from_mapping(HardwareSettings, config.get("hardware") or {}, "hardware"),
        task=from_mapping(TaskSettings, config.get("task") or {}, "task"),
        objective=dict(config.get("objective") or {}),
    )
