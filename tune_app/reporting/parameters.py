"""Which parameter matters, by Optuna's own importance, slices and parallel coordinates.

Optuna compares the final values of completed trials. Given a trial that was stopped early with the value it had then,
it would compare scores of different budgets; without the stopped trials it would see only what survived, and a
parameter that sorts out the bad half would look unimportant. So it is fed twice, each time with scores of one budget:

  all trials within the epochs that all of them had (the first rung that stopped any), and
  the trials that ran to the end, at their best epochs.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_app.reporting.findings import Findings, counted
from tune_app.reporting.page import Plot, Section, short
from tune_app.reporting.plots import OUTLINE, SEQUENTIAL, figure, greys, hatching, styled
from tune_app.results.sweep import read_study

ENOUGH = 8
"""Trials below which an importance would be read out of noise."""
TRIED = 5
"""Trials that must have a parameter before its importance is told."""
GOOD = 0.5
"""The share of trials that counts as good. Optuna's own default is the best tenth: there the order is that of noise,
and a parameter that halves the score of every second trial can look unimportant."""
NAMED = 3
"""Parameters that are named in the text."""
PER_ROW = 4
"""Slices side by side."""


def parameters(findings: Findings) -> Section:
    """Importance, slices and parallel coordinates of what was searched."""
    title = "Parameters"
    searched = {t.user_attrs.get("name"): t for t in read_study(findings.sweep.folder)[0] if t.params}
    common, finished = scores_at_common_epoch(findings), scores_at_full_budget(findings)
    with quiet():
        early, full = study_of(findings, searched, common), study_of(findings, searched, finished)
        parts = [*importance(findings, early, full), *pictures(findings, early, full)]
    if parts:
        return Section(key="parameters", title=title, text=[how(findings, early, full)], parts=parts)
    return Section(key="parameters", title=title, nothing=why_nothing(findings, searched))


def why_nothing(findings: Findings, searched: Mapping[str, FrozenTrial]) -> str:
    if not findings.sweep.trials:
        return "Nothing to show: no trial has begun."
    if not searched:
        return "Nothing to show: the configurations were a fixed list, no parameter was searched."
    return "Nothing to show: fewer than two trials with searched parameters have a score."


def how(findings: Findings, early: optuna.Study, full: optuna.Study) -> str:
    return (
        f"Scores are compared at equal budgets only: {counted(len(trials_of(early)), 'trial')} within "
        f"{counted(findings.common_epoch, 'epoch')}, which all of them had, and {len(trials_of(full))} at full budget. "
        "Failed trials are left out."
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna warns of experimental figures and of few trials; the section says the latter itself."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


def scores_at_common_epoch(findings: Findings) -> dict[str, float]:
    epoch = findings.common_epoch
    return {t.name: findings.score_within(t, epoch) for t in findings.comparable} if epoch else {}


def scores_at_full_budget(findings: Findings) -> dict[str, float]:
    metric = findings.sweep.metric
    return {t.name: float(t.best[metric]) for t in findings.comparable if t.status == "finished"}


def study_of(findings: Findings, searched: Mapping[str, FrozenTrial], scores: Mapping[str, float]) -> optuna.Study:
    """A study in memory that holds these scores as the values of completed trials."""
    direction = StudyDirection.MAXIMIZE if findings.sweep.mode == "max" else StudyDirection.MINIMIZE
    study = optuna.create_study(direction=direction)
    for name, frozen in searched.items():
        value = scores.get(name, math.nan)
        if math.isfinite(value):
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=value,
                    params=frozen.params,
                    distributions=frozen.distributions,
                    user_attrs={"name": name, "number": frozen.number},
                )
            )
    return study


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of a study, not copied."""
    return study.get_trials(deepcopy=False)


def importance(findings: Findings, early: optuna.Study, full: optuna.Study) -> list[Plot]:
    """Bars of the importance at both budgets; none where there are too few trials."""
    names = {"early": f"all trials, {counted(findings.common_epoch, 'epoch')}", "full": "trials at full budget"}
    rows = []
    for key, study in (("early", early), ("full", full)):
        if len(trials_of(study)) >= ENOUGH and not (key == "full" and len(trials_of(full)) == len(trials_of(early))):
            found = get_param_importances(
                study, params=tried(study), evaluator=PedAnovaImportanceEvaluator(target_quantile=GOOD)
            )
            rows += [
                {"parameter": p, "importance": v, "of": names[key], "trials": len(trials_of(study))}
                for p, v in found.items()
                if math.isfinite(v)
            ]
    if not rows:
        return []
    data = pd.DataFrame(rows)
    order = data.groupby("parameter")["importance"].max().sort_values().index
    traces = [
        go.Bar(
            x=own["importance"],
            y=own["parameter"],
            orientation="h",
            name=str(of),
            marker={"color": greys(2)[index], "pattern": hatching(index), "line": OUTLINE},
            hovertemplate="%{y}: %{x:.3f}<extra>%{fullData.name}</extra>",
        )
        for index, (of, own) in enumerate(data.groupby("of", sort=False))
    ]
    drawn = figure(traces, height=130 + 44 * len(order), x="importance (sums to 1)", barmode="group")
    drawn.update_yaxes(type="category", categoryorder="array", categoryarray=list(order))
    words = "; ".join(
        f"{of}: {', '.join(f'{row.parameter} {row.importance:.2f}' for row in own.head(NAMED).itertuples())}"
        for of, own in data.groupby("of", sort=False)
    )
    alt = (
        f"PED-ANOVA importance (arXiv:2304.10255) of being in the better half: {words}. It says which parameters "
        "separate good from bad trials in the ranges that were tried, not in which direction. Parameters that fewer "
        f"than {TRIED} trials have are left out."
    )
    return [Plot(key="parameters-importance", title="Importance", alt=alt, figure=drawn, data=data)]


def tried(study: optuna.Study) -> list[str]:
    """The parameters that enough trials have; those of a family that was hardly tried say nothing."""
    counts = Counter(name for trial in trials_of(study) for name in trial.params)
    return sorted(name for name, number in counts.items() if number >= TRIED)


def pictures(findings: Findings, early: optuna.Study, full: optuna.Study) -> Iterator[Plot]:
    """Slices at both budgets, and parallel coordinates at the common one."""
    common = f"{findings.metric} within {counted(findings.common_epoch, 'epoch')}"
    if len(trials_of(early)) > 1:
        yield from slices(early, "common", common)
    if 1 < len(trials_of(full)) < len(trials_of(early)):
        yield from slices(full, "full", f"{findings.metric} at full budget")
    if len(trials_of(early)) > 1:
        yield parallel(early, common)


def slices(study: optuna.Study, key: str, target: str) -> Iterator[Plot]:
    """The score against each parameter, a few parameters to a picture."""
    names = sorted({name for trial in trials_of(study) for name in trial.params})
    for number, first in enumerate(range(0, len(names), PER_ROW)):
        chosen = names[first : first + PER_ROW]
        drawn = styled(optuna.visualization.plot_slice(study, params=chosen, target_name=target))
        drawn.update_traces(
            marker_colorscale=SEQUENTIAL,
            marker_size=8,
            marker_reversescale=True,
            marker_colorbar_title_text="trial",
            selector={"type": "scatter"},
        )
        numbers = [trial.user_attrs["number"] for trial in trials_of(study)]
        for trace in drawn.select_traces({"type": "scatter"}):
            trace.marker.color = [numbers[place] for place in trace.marker.color]
            trace.marker.cmin, trace.marker.cmax = min(numbers), max(numbers)
            trace.x = [x.strip("'") if isinstance(x, str) else x for x in trace.x]
        drawn.update_layout(height=380, width=None, showlegend=False)
        drawn.update_xaxes(exponentformat="power", categoryarray=None)
        drawn.update_xaxes(dtick=1, selector={"type": "log"})
        part = f", {', '.join(chosen)}" if len(names) > PER_ROW else ""
        yield Plot(
            key=f"parameters-slices-{key}-{number}",
            title=f"{target} against each parameter{part}",
            alt=slices_in_words(study, chosen, target),
            figure=drawn,
            data=points_of(study, chosen, target),
        )


def slices_in_words(study: optuna.Study, names: list[str], target: str) -> str:
    best, extreme = study.best_trial, "lowest" if study.direction == StudyDirection.MINIMIZE else "highest"
    at = ", ".join(f"{name} = {value(best.params.get(name))}" for name in names)
    return (
        f"{target} of {counted(len(trials_of(study)), 'trial')}, a dot each, later ones darker. The {extreme}, "
        f"{short(study.best_value, 3)}, is at {at}."
    )


def value(given: object) -> str:
    return "not used" if given is None else f"{given:.4g}" if isinstance(given, float) else str(given)


def points_of(study: optuna.Study, names: list[str], target: str) -> pd.DataFrame:
    rows = [
        {"name": t.user_attrs["name"], target: t.value} | {n: t.params.get(n) for n in names} for t in trials_of(study)
    ]
    return pd.DataFrame(rows)


def parallel(study: optuna.Study, target: str) -> Plot:
    """All parameters of a trial as one line, in the colour of its score."""
    names = sorted({name for trial in trials_of(study) for name in trial.params})
    drawn = optuna.visualization.plot_parallel_coordinate(study, target_name=target)
    ranked = sorted(trials_of(study), key=lambda t: t.value)
    shades = dict(zip((t.number for t in ranked), scale([t.value for t in ranked])))
    lines = [trace for trace in drawn.data if trace.mode == "lines"]
    for trial, line in zip(trials_of(study), lines):
        line.line.color, line.line.width, line.opacity = shades[trial.number], 1.8, 0.8
    drawn = styled(drawn)
    drawn.update_traces(marker_colorscale=SEQUENTIAL, selector={"mode": "markers"})
    drawn.update_layout(height=460, margin={"l": 90, "r": 24, "t": 24, "b": 60})
    drawn.update_xaxes(showline=False, ticks="", tickfont_size=11)
    drawn.update_yaxes(visible=False)
    drawn.update_annotations(bgcolor="rgba(255, 255, 255, 0.8)")
    alt = (
        f"One line per trial ({len(trials_of(study))}) through its score and its values of {', '.join(names)}; bright "
        f"lines have high scores. The best has {', '.join(f'{n} = {value(study.best_params.get(n))}' for n in names)}."
    )
    return Plot(
        key="parameters-parallel",
        title="All parameters at once",
        alt=alt,
        figure=drawn,
        data=points_of(study, names, target),
    )


def scale(values: list[float]) -> list[str]:
    """Colours for ascending values."""
    from plotly.colors import sample_colorscale

    low, span = values[0], (values[-1] - values[0]) or 1.0
    return sample_colorscale(SEQUENTIAL, [(v - low) / span for v in values])
