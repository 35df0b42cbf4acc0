"""python -m tune_app.compare a=SWEEP b=SWEEP: two sweeps side by side, and what differs between their runs of one seed.

Whether they may be compared at all is said first: by the fingerprint of their data, and by the settings that differ.
See docs/compare.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search_spaces import flatten
from trainables.calibration import CALIBRATED
from trainables.settings import PATH, require, require_choice
from tune_app.confirmation.runs import is_sound
from tune_app.evidence import Replicates, confirm_statistics
from tune_app.reporting.page import Page, Plot, Section, Table, refuse_to_replace, save
from tune_app.reporting.plots import color, differences
from tune_app.results.folders import find_sweep
from tune_app.results.manifest import now
from tune_app.results.repeats import arm_labels
from tune_app.results.summary import notices
from tune_app.results.sweep import Sweep
from tune_app.results.tables import records, sentences, text_pages, to_plain
from tune_app.settings.terminal import columns, drawing, plain

FORMATS = ("table", "json")
COMPARED = ("data.", "model.", "trainer.", "frequencies")
FREE = tuple(f"data.{name}" for name in ("root", "cache_dir", "split_file"))
FREE += tuple(f"trainer.{name}" for name in ("compile", "checkpoint_every", "keep_checkpoint_every"))
"""Settings that change no score."""
PATCHES = ("data.split_seed", "trainer.batch_size", "trainer.validation_batches")
"""Settings that choose the validation patches."""
DROPPABLE = (CALIBRATED, "seed", "epochs", "best_epoch")
PAIRED = ("arm", "with", "seeds", "mean_a", "mean_b", "difference", "low", "high")


@dataclass(kw_only=True)
class CompareSettings:
    """What `python -m tune_app.compare` takes."""

    a: str = field(default="", metadata=PATH)
    """latest, the name of a sweep in results_dir, or its folder."""
    b: str = field(default="", metadata=PATH)
    """The other one; differences are b − a."""
    results_dir: str = field(default="", metadata=PATH)
    """Folder of the sweeps; empty: $TUNE_APP_RESULTS, the user's setting, or results."""
    format: str = "table"
    """table or json."""
    out: str = field(default="", metadata=PATH)
    """HTML file to write besides; empty: none. An earlier page there is replaced; anything else is left alone."""

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)
        html = not self.out or Path(self.out).suffix.lower() in (".html", ".htm")
        require(html, "out", self.out, "the page is an HTML file", "Use out=comparison.html")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two sweeps compared. names: what they are called here. same_data: None where a sweep does not say.

    settings: those that differ. paired: one row per pair of arms with runs of one seed; NaN where it cannot be known.
    """

    sweeps: tuple[Sweep, Sweep]
    names: tuple[str, str]
    same_data: bool | None
    notices: list[str]
    settings: pd.DataFrame
    leaderboard: pd.DataFrame
    paired: pd.DataFrame
    findings: list[str]


def compare(settings: CompareSettings) -> Comparison:
    """Read both sweeps and put together what there is to say. Raises InputError."""
    a, b = (Sweep(find_sweep(getattr(settings, key), settings.results_dir, key=key)) for key in ("a", "b"))
    require(a.folder != b.folder, "b", settings.b, f"it is the same sweep as a={settings.a}", "Give another one")
    names = (a.name, b.name) if a.name != b.name else (f"a: {a.name}", f"b: {b.name}")
    same, told = _same_data(a, b)
    differing = _differing_settings(a, b)
    ranked = same is not False and a.objective == b.objective
    paired = _paired(a, b) if ranked else pd.DataFrame(columns=list(PAIRED))
    return Comparison(
        sweeps=(a, b),
        names=names,
        same_data=same,
        notices=[*told, *_about(a, b, differing), *(f"{n}: {x}" for n, s in zip(names, (a, b)) for x in notices(s))],
        settings=differing,
        leaderboard=_merged(a, b, names, ranked=ranked),
        paired=paired,
        findings=_findings(paired, names) if ranked else ["No differences: the scores are not comparable."],
    )


def _same_data(a: Sweep, b: Sweep) -> tuple[bool | None, list[str]]:
    """Whether both sweeps had the same voxels and split, by the fingerprints of their caches; and that in words."""
    prints = [str((sweep.manifest.get("data") or {}).get("fingerprint") or "") for sweep in (a, b)]
    if not all(prints):
        return None, ["whether both had the same data is not known: a manifest has no fingerprint of them"]
    if prints[0] == prints[1]:
        return True, [f"same data: voxels, split and classes are equal (fingerprint {prints[0][:12]})"]
    return False, [
        f"DIFFERENT DATA: voxels, split or classes differ (fingerprints {prints[0][:12]} and {prints[1][:12]}), so "
        "scores of one sweep cannot be set against those of the other; the rows have no common rank"
    ]


def _differing_settings(a: Sweep, b: Sweep) -> pd.DataFrame:
    """setting, a, b: settings of data, model and training that differ."""
    first, second = (flatten(sweep.settings) for sweep in (a, b))
    keys = [key for key in dict.fromkeys([*first, *second]) if key.startswith(COMPARED) and key not in FREE]
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
        {"arm": labels[0][first], "with": labels[1][second], **_difference(runs[0][first], runs[1][second])}
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


def _difference(a: Mapping[int, float], b: Mapping[int, float]) -> dict[str, float]:
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
        begin = f"{what}: {names[1]} − {names[0]} = {row['difference']:+.4f}"
        if np.isfinite(row["low"]):
            apart = "told apart" if row["low"] > 0 or row["high"] < 0 else "not told apart"
            told.append(f"{begin} ({row['low']:+.4f} to {row['high']:+.4f}, {row['seeds']} paired seeds): {apart}.")
        else:
            told.append(f"{begin} on one seed: one pair tells nothing of the noise.")
    return [*told, "Intervals are 95 %, one at a time: of twenty that hold 0, one is expected to miss it."]


def as_table(found: Comparison, width: int | None) -> str:
    """What the terminal shows."""
    titled = [
        ("", found.leaderboard, DROPPABLE, ("rank", "sweep", "name")),
        (f"Runs of one seed, a = {found.names[0]}, b = {found.names[1]}", _for_the_eye(found.paired), (), ("arm",)),
        ("Settings that differ", found.settings, (), ("setting",)),
    ]
    blocks = [
        plain(f"{found.names[0]}   and   {found.names[1]}"),
        *(sentences(plain(f"!! {notice}"), width) for notice in found.notices),
    ]
    for title, frame, droppable, key in titled:
        if len(frame):
            table = text_pages(frame, width, droppable, key)
            blocks.append(f"{plain(title)}\n{table}" if title else table)
    return "\n\n".join([*blocks, sentences(plain("\n".join(found.findings)), width)])


def _for_the_eye(paired: pd.DataFrame) -> pd.DataFrame:
    alike = bool((paired["arm"] == paired["with"]).all())
    return paired.drop(columns="with") if alike else paired


def as_json(found: Comparison) -> str:
    """One object with everything the table says; scores exact, null where there is none."""
    content = {
        "a": {"sweep": found.names[0], "folder": str(found.sweeps[0].folder)},
        "b": {"sweep": found.names[1], "folder": str(found.sweeps[1].folder)},
        "same_data": found.same_data,
        "notices": found.notices,
        "settings": records(found.settings),
        "leaderboard": records(found.leaderboard),
        "paired": records(found.paired),
        "findings": found.findings,
    }
    return json.dumps(to_plain(content), indent=2, allow_nan=False)


def page_of(found: Comparison) -> Page:
    """The comparison as a page."""
    paired: list[Plot | Table] = [_plot(found)] if found.paired["low"].notna().any() else []
    if len(found.paired):
        paired.append(Table(key="paired-table", title="Pairs", frame=_for_the_eye(found.paired), data=found.paired))
    board = Table(key="leaderboard-table", title="All trials", frame=found.leaderboard, droppable=DROPPABLE)
    settings = [Table(key="settings-table", title="Settings", frame=found.settings)] if len(found.settings) else []
    word = {True: "the same", False: "different", None: "not known"}[found.same_data]
    return Page(
        title=f"{found.names[0]} and {found.names[1]}",
        notices=found.notices,
        facts=[("a", found.names[0]), ("b", found.names[1]), ("Data", word)],
        sections=[
            Section(key="leaderboard", title="Leaderboard", parts=[board]),
            Section(key="paired", title="Runs of one seed", text=found.findings, parts=paired),
            Section(
                key="settings",
                title="Settings that differ",
                parts=settings,
                nothing="" if settings else "None of data, model and training.",
            ),
        ],
        footer=f"Written {now()[:16]} by python -m tune_app.compare. Plots by Plotly.",
    )


def _plot(found: Comparison) -> Plot:
    rows = found.paired.dropna(subset=["low"])
    names = [a if a == b else f"{b} − {a}" for a, b in zip(rows["arm"], rows["with"])]
    label = f"{found.names[1]} − {found.names[0]}"
    drawn = differences(rows, names, ("difference", "low", "high"), color(0), label)
    alt = f"{' '.join(found.findings[:-1])} An interval that holds 0 shows no difference."
    return Plot(key="paired-differences", title="Differences over paired seeds", alt=alt, figure=drawn, data=rows[::-1])


def compare_and_print(settings: CompareSettings) -> int:
    """Compare, write the page where one is asked for, and print."""
    path = Path(settings.out).expanduser() if settings.out else None
    if path is not None:
        refuse_to_replace(path)
    found = compare(settings)
    if path is not None:
        save(page_of(found), path)
    if settings.format == "json":
        print(as_json(found))
        return 0
    print(as_table(found, columns()), file=drawing(sys.stdout))
    if path is not None:
        print(f"\n{path}   open it in any browser")
    return 0
