"""What `python -m tune_app.confirm` takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trainables.settings import PATH, require, require_choice, require_in
from tune_app.confirmation.arms import MOST_ROUNDS, SCORES
from tune_app.settings.document import FORMATS
from tune_app.settings.schema import CheckpointSettings, ClusterSettings, NotifySettings, ResourceSettings

AUTO, UNTIL_DECIDED = "auto", "until_decided"


@dataclass(kw_only=True)
class DataPlace:
    """Where the data are now, should they have moved since the sweep; that they are the same is checked."""

    root: str = field(default="", metadata=PATH)
    split_file: str = field(default="", metadata=PATH)
    cache_dir: str = field(default="", metadata=PATH)


@dataclass(kw_only=True)
class ConfirmSettings:
    """What `python -m tune_app.confirm` takes. Everything else is as the sweep was run."""

    sweep: str = field(default="latest", metadata=PATH)
    """latest, the name of a sweep in results_dir, or its folder."""
    resume: str = field(default="", metadata=PATH)
    """Resume the unfinished confirmation of this sweep."""
    results_dir: str = field(default="", metadata=PATH)
    """Folder of the sweeps; empty: $TUNE_APP_RESULTS, the user's setting, or results."""
    top: int = 4
    """How many configurations, the first of the leaderboard; the untuned baseline comes besides."""
    replicates: str = "5"
    """Runs of each, on fresh seeds; or auto: where they decide most, within budget_gpu_hours; or until_decided: round
    after round, until one arm is left or max_replicates are reached."""
    max_replicates: int = 12
    """With replicates=until_decided: rounds at most."""
    budget_gpu_hours: float = 0.0
    """With replicates=auto: GPU-hours for all runs together; CPU-hours where trials have no GPU."""
    score: str = SCORES[0]
    """What a run is worth: best, the score of its best epoch; last3, the mean of its last three epochs, which is less
    noisy."""
    noise: str = "own"
    """own: the noise of these runs decides. borrowed: pooled with that of earlier confirmations of the same data and
    budget in results_dir, unless an F-test objects; with a fixed number of replicates."""
    resources: ResourceSettings = field(default_factory=ResourceSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    data: DataPlace = field(default_factory=DataPlace)
    format: str = "table"
    """table, or json: one document at the end (docs/json.md)."""
    notify: NotifySettings = field(default_factory=NotifySettings)
    wandb_project: str = ""
    """Weights & Biases project; empty: none."""
    verbose: int = 0
    """Ray Tune's own verbosity, 0 to 3."""

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)
        require_in(self, "", top="[1, inf]", max_replicates=f"[2, {MOST_ROUNDS}]")
        require_choice("score", self.score, SCORES)
        require_choice("noise", self.noise, ("own", "borrowed"))
        number = self.replicates.isdecimal() and 2 <= int(self.replicates) <= MOST_ROUNDS
        require(
            number or self.replicates in (AUTO, UNTIL_DECIDED),
            "replicates",
            self.replicates,
            f"a number from 2 (one run tells no noise) to {MOST_ROUNDS}, auto or until_decided",
            "Use replicates=5",
        )
        require(
            not self.is_auto or self.budget_gpu_hours > 0,
            "budget_gpu_hours",
            self.budget_gpu_hours,
            "replicates=auto needs a budget",
            "Give budget_gpu_hours=10",
        )
        require(
            self.is_auto or not self.budget_gpu_hours,
            "budget_gpu_hours",
            self.budget_gpu_hours,
            f"replicates={self.replicates} says how many runs there are",
            "Leave it out, or give replicates=auto",
        )
        require(
            self.replicates == UNTIL_DECIDED or self.max_replicates == 12,
            "max_replicates",
            self.max_replicates,
            f"replicates={self.replicates} says how many runs there are",
            "Leave it out, or give replicates=until_decided",
        )
        require(
            number or self.noise == "own",
            "noise",
            self.noise,
            f"noise is borrowed for a fixed number of replicates, and replicates={self.replicates}",
            "Use replicates=5, or noise=own",
        )

    @property
    def is_auto(self) -> bool:
        return self.replicates == AUTO

    @property
    def rounds(self) -> int:
        """Of a fixed number; 0 where runs are chosen by their results."""
        return int(self.replicates) if self.replicates.isdecimal() else 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
