"""Two sweeps side by side, and what differs between their runs of one seed.

Whether they may be compared at all is said first: by the fingerprint of their data, and by the settings that differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from search_spaces import flatten
from trainables.calibration import CALIBRATED
from tune_app.confirmation.runs import is_sound
from tune_app.evidence import Replicates, confirm_statistics
from tune_app.reporting.page import Page, Plot, Section, Table
from tune_app.reporting.plots import color, differences
from tune_app.results.manifest import now
from tune_app.results.repeats import arm_labels
from tune_app.results.summary import notices
from tune_app.results.sweep import Sweep
from tune_app.results.tables import records, sentences, text_pages
from tune_app.settings.terminal import plain

COMPARED = ("data.", "model.", "trainer.", "frequencies")
FREE = tuple(f"data.{name}" for name in ("root", "cache_dir", "split_file"))
FREE += tuple(f"trainer.{name}" for name in ("compile", "checkpoint_every", "keep_checkpoint_every"))
"""Settings that change no score."""
PATCHES = ("data.split_seed", "trainer.batch_size", "trainer.validation_batches")
"""Settings that choose the validation patches."""
DROPPABLE = (CALIBRATED, "seed", "epochs", "best_epoch")
SETTINGS = "Settings that differ"
PAIRED = ("arm", "with", "seeds", "mean_a", "mean_b", "difference", "low", "high")


@dataclass(frozen=True, kw_only=True)
class Compared(ABC):
    """Two things compared. names: what they are called here. same_data: None where one of them does not say.

    settings: those that differ. paired: runs of one seed; NaN where it cannot be known.
    """

    names: tuple[str, str]
    folders: tuple[Path, Path]
    same_data: bool | None
    notices: list[str]
    settings: pd.DataFrame
    paired: pd.DataFrame
    findings: list[str]

    @abstractmethod
    def tables(self) -> list[tuple[str, pd.DataFrame, Sequence[str], Sequence[str]]]:
        """Title, frame, columns that may be dropped, and columns that are kept, of each table of the text."""

    @abstractmethod
    def sections(self) -> list[Section]:
        """Of the page, before that of the settings."""

    kind: ClassVar[str]
    """sweeps or runs."""

    @property
    @abstractmethod
    def frames(self) -> Mapping[str, pd.DataFrame]:
        """By name, what the JSON has beside the pairs and the settings."""

    def text(self, width: int | None) -> str:
        """What the terminal shows."""
        blocks = [
            plain(f"{self.names[0]}   and   {self.names[1]}"),
            *(sentences(plain(f"!! {notice}"), width) for notice in self.notices),
        ]
        for title, frame, droppable, key in [*self.tables(), (SETTINGS, self.settings, (), ("setting",))]:
            if len(frame):
                table = text_pages(frame, width, droppable, key)
                blocks.append(f"{plain(title)}\n{table}" if title else table)
        return "\n\n".join([*blocks, sentences(plain("\n".join(self.findings)), width)])

    def document(self) -> dict[str, Any]:
        """Everything the text says; scores exact, null where there is none."""
        return {
            "of": self.kind,
            **{key: {"name": n, "folder": f} for key, n, f in zip("ab", self.names, self.folders)},
            "same_data": self.same_data,
            "notices": self.notices,
            "settings": records(self.settings),
            **{name: records(frame) for name, frame in self.frames.items()},
            "paired": records(self.paired),
            "findings": self.findings,
        }

    def page(self) -> Page:
        """The same with pictures."""
        settings = [Table(key="settings-table", title="Settings", frame=self.settings)] if len(self.settings) else []
        word = {True: "the same", False: "different", None: "not known"}[self.same_data]
        nothing = "" if settings else "None of data, model and training."
        return Page(
            title=f"{self.names[0]} and {self.names[1]}",
            notices=self.notices,
            facts=[("a", self.names[0]), ("b", self.names[1]), ("Data", word)],
            sections=[*self.sections(), Section(key="settings", title=SETTINGS, parts=settings, nothing=nothing)],
            footer=f"Written {now()[:16]} by python -m tune_app.compare. Plots by Plotly.",
        )

    def paired_table(self) -> pd.DataFrame:
        """Without the second name where both are called alike."""
        alike = bool((self.paired["arm"] == self.paired["with"]).all())
        return self.paired.drop(columns="with") if alike else self.paired

    def paired_section(self) -> Section:
        """Runs of one seed, drawn where there is an interval."""
        parts: list[Plot | Table] = [self._plot()] if self.paired["low"].notna().any() else []
        if len(self.paired):
            parts.append(Table(key="paired-table", title="Pairs", frame=self.paired_table(), data=self.paired))
        return Section(key="paired", title="Runs of one seed", text=self.findings, parts=parts)

    def _plot(self) -> Plot:
        rows = self.paired.dropna(subset=["low"])
        names = [a if a == b else f"{b} − {a}" for a, b in zip(rows["arm"], rows["with"])]
        label = f"{self.names[1]} − {self.names[0]}"
        return Plot(
            key="paired-differences",
            title="Differences over paired seeds",
            alt=f"{' '.join(self.findings[:-1])} An interval that holds 0 shows no difference.",
            figure=differences(rows, names, ("difference", "low", "high"), color(0), label),
            data=rows[::-1],
        )


@dataclass(frozen=True, kw_only=True)
class SweepComparison(Compared):
    """Two sweeps. paired: one row per pair of arms with runs of one seed."""

    leaderboard: pd.DataFrame
    kind = "sweeps"

    def tables(self) -> list[tuple[str, pd.DataFrame, Sequence[str], Sequence[str]]]:
        pairs = f"Runs of one seed, a = {self.names[0]}, b = {self.names[1]}"
        return [
            ("", self.leaderboard, DROPPABLE, ("rank", "sweep", "name")),
            (pairs, self.paired_table(), (), ("arm",)),
        ]

    @property
    def frames(self) -> Mapping[str, pd.DataFrame]:
        return {"leaderboard": self.leaderboard}

    def sections(self) -> list[Section]:
        board = Table(key="leaderboard-table", title="All trials", frame=self.leaderboard, droppable=DROPPABLE)
        return [Section(key="leaderboard", title="Leaderboard", parts=[board]), self.paired_section()]


def compare_sweeps(a: Sweep, b: Sweep) -> SweepComparison:
    """Put together what there is to say."""
    names = (a.name, b.name) if a.name != b.name else (f"a: {a.name}", f"b: {b.name}")
    same, told = same_data(a.manifest, b.manifest, "sweep")
    differing = differing_settings(a.settings, b.settings, COMPARED)
    ranked = same is not False and a.objective == b.objective
    paired = _paired(a, b) if ranked else pd.DataFrame(columns=list(PAIRED))
    return SweepComparison(
        names=names,
        folders=(a.folder, b.folder),
        same_data=same,
        notices=[*told, *_about(a, b, differing), *(f"{n}: {x}" for n, s in zip(names, (a, b)) for x in notices(s))],
        settings=differing,
        leaderboard=_merged(a, b, names, ranked=ranked),
        paired=paired,
        findings=_findings(paired, names) if ranked else ["No differences: the scores are not comparable."],
    )


def same_data(a: Mapping[str, Any], b: Mapping[str, Any], what: str) -> tuple[bool | None, list[str]]:
    """Whether both had the same voxels and split, by the fingerprints in their manifests; and that in words.

    what: sweep or run.
    """
    prints = [str((manifest.get("data") or {}).get("fingerprint") or "") for manifest in (a, b)]
    if not all(prints):
        return None, ["whether both had the same data is not known: a manifest has no fingerprint of them"]
    if prints[0] == prints[1]:
        return True, [f"same data: voxels, split and classes are equal (fingerprint {prints[0][:12]})"]
    return False, [
        f"DIFFERENT DATA: voxels, split or classes differ (fingerprints {prints[0][:12]} and {prints[1][:12]}), so "
        f"scores of one {what} cannot be set against those of the other; the rows have no common rank"
    ]


def differing_settings(a: Mapping[str, Any], b: Mapping[str, Any], sections: tuple[str, ...]) -> pd.DataFrame:
    """setting, a, b: settings of these sections that differ and may change a score."""
    first, second = flatten(a), flatten(b)
    keys = [key for key in dict.fromkeys([*first, *second]) if key.startswith(sections) and key not in FREE]
    rows = [(key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)]
    return pd.DataFrame([(key, *map(_word, values)) for key, *values in rows], columns=["setting", "a", "b"])


def _word(value: Any) -> str:
    return "-" if value is None else str(value)


def _about(a: Sweep, b: Sweep, differing: pd.DataFrame) -> list[str]:
    told = []
    if a.metric != b.metric:
        told.append(f"different metrics, {a.metric} and {b.metric}: the rows have no common rank")
    elif a.objective != b.objective:
        said = [sweep.objective.bounds or "none" for sweep in (a, b)]
        told.append(f"different bounds, {said[0]} and {said[1]}: the rows have no common rank")
    patches = [key for key in differing["setting"] if key in PATCHES]
    if patches:
        told.append(f"validated on different patches: {', '.join(patches)} differ")
    return told


def _merged(a: Sweep, b: Sweep, names: Sequence[str], *, ranked: bool) -> pd.DataFrame:
    """Both leaderboards, best first, with the column `sweep`; rank counts over both, or is missing."""
    classes = list(dict.fromkeys([*a.classes, *b.classes]))
    columns = [a.metric, CALIBRATED, *(f"dice/{name}" for name in classes), "best_epoch", "epochs", "status", "seed"]
    boards = [sweep.leaderboard().assign(sweep=name) for sweep, name in zip((a, b), names)]
    whole = pd.concat([board.astype(object) for board in boards], ignore_index=True)
    score = whole[a.metric].where(whole["rank"].notna()).astype(float)
    bounded = ["violation"] if "violation" in whole and ranked else []
    order = [*[True] * len(bounded), a.mode == "min"]
    whole = whole.assign(_score=score).sort_values([*bounded, "_score"], ascending=order, kind="stable")
    ranks = whole["_score"].notna().cumsum().where(whole["_score"].notna() & ranked)
    shown = whole.assign(rank=ranks.astype("Int64"))[["rank", "sweep", "name", *(c for c in columns if c in whole)]]
    return shown.reset_index(drop=True).infer_objects()


Runs = Mapping[str, Mapping[int, float]]
"""Signature of an arm → seed → score, the mean where a seed was run twice."""


def _paired(a: Sweep, b: Sweep) -> pd.DataFrame:
    """The best arm of each against the other, then every arm that both trained; differences b − a over common seeds."""
    runs, labels = (_runs(a), _runs(b)), (arm_labels(a.trials), arm_labels(b.trials))
    missed = [
        {t.signature: t.violation for t in sorted(sweep.trials, key=lambda t: -t.violation) if is_sound(t)}
        for sweep in (a, b)
    ]
    sign = -1 if a.mode == "min" else 1
    best = [
        max(own, key=lambda arm: (-by[arm], sign * float(np.mean(list(own[arm].values()))))) if own else ""
        for own, by in zip(runs, missed)
    ]
    pairs = [(best[0], best[1])] if all(best) and best[0] != best[1] else []
    pairs += [(arm, arm) for arm in runs[0] if arm in runs[1]]
    rows = [
        {"arm": labels[0][first], "with": labels[1][second], **difference(runs[0][first], runs[1][second])}
        for first, second in pairs
    ]
    frame = pd.DataFrame(rows, columns=list(PAIRED))
    return frame[frame["seeds"] > 0].reset_index(drop=True)


def _runs(sweep: Sweep) -> Runs:
    found: dict[str, dict[int, list[float]]] = {}
    for trial in sweep.trials:
        if is_sound(trial) and trial.seed is not None:
            found.setdefault(trial.signature, {}).setdefault(trial.seed, []).append(trial.score(sweep.metric))
    return {arm: {seed: float(np.mean(scores)) for seed, scores in own.items()} for arm, own in found.items()}


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> dict[str, float]:
    """Of the seeds that both have: two arms and their seeds are a confirmation of two arms, paired."""
    seeds = sorted(set(a) & set(b))
    if not seeds:
        return {"seeds": 0}
    scores = np.array([[own[seed] for seed in seeds] for own in (a, b)])
    _, other = sorted(
        confirm_statistics(Replicates(arms=["a", "b"], scores=scores, baseline="a")).arms, key=lambda arm: arm.name
    )
    mean_a, mean_b = scores.mean(axis=1)
    return {
        "seeds": len(seeds),
        "mean_a": mean_a,
        "mean_b": mean_b,
        "difference": mean_b - mean_a,
        "low": other.difference_to_baseline_low,
        "high": other.difference_to_baseline_high,
    }


def _findings(paired: pd.DataFrame, names: Sequence[str]) -> list[str]:
    if paired.empty:
        return [
            "No differences: no finished runs of the two have a seed in common. Repeat arms with the same seeds, for "
            "example family=compare seeds=3 in both."
        ]
    told = []
    for row in paired.to_dict("records"):
        what = row["arm"] if row["arm"] == row["with"] else f"{row['with']} against {row['arm']}"
        told.append(pair_told(f"{what}: {names[1]} − {names[0]} = {row['difference']:+.4f}", row))
    return [*told, "Intervals are 95 %, one at a time: of twenty that hold 0, one is expected to miss it."]


def pair_told(begin: str, row: Mapping[Any, Any]) -> str:
    """A sentence on a row of `paired`, which begins with the difference."""
    if not np.isfinite(row["low"]):
        return f"{begin} on one seed: one pair tells nothing of the noise of training."
    apart = "told apart" if row["low"] > 0 or row["high"] < 0 else "not told apart"
    return f"{begin} ({row['low']:+.4f} to {row['high']:+.4f}, {row['seeds']} paired seeds): {apart}."
