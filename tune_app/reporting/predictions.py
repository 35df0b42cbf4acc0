"""EM, truth and prediction: of the best trial and of the baseline, and where the worst class goes wrong.

The trials left them behind (`trainables.prediction`); nothing is predicted here, so the report needs
neither the data nor the checkpoints.

Legend: M patches, C classes, H W space.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trainables.prediction import PREDICTION
from tune_app.reporting.findings import Findings, counted, listed
from tune_app.reporting.page import Gallery, Image, Section, short
from tune_app.results.pictures import (
    TOL_MUTED,
    Patches,
    drawn_classes,
    grey,
    grown,
    outlined,
    paint,
    places,
    png,
    read_patches,
    rgb,
    truth,
)
from tune_app.results.tables import in_words
from tune_app.results.trial import Trial

ERRORS = (("#FFFFFF", "found"), ("#FF00AA", "false alarm"), ("#FFE600", "missed"))
"""Neither of a family nor of a class."""
PATCHES_OF_WORST = 4


@dataclass(frozen=True, kw_only=True)
class Shown(Patches):
    """The patches of one trial."""

    trial: Trial


def predictions(findings: Findings) -> Section:
    """Pictures of the best trial and of the baseline, and of the best trial's worst class."""
    title = "Predictions"
    best = read_shown(findings.best) if findings.best else None
    if best is None:
        return Section(key="predictions", title=title, nothing=f"Nothing to show: {why_nothing(findings)}.")
    base = read_shown(findings.baseline) if findings.baseline and findings.baseline.name != best.trial.name else None
    same = base is not None and base.em.shape == best.em.shape and bool((base.em == best.em).all())
    others = [base] if base is not None and same else []
    parts = [overview(dict(zip(("prediction of the best", "prediction of the baseline"), [best, *others])))]
    worst = worst_class(best.trial, best.classes)
    if worst and best.present[:, best.classes.index(worst)].any():
        parts.append(errors(best, others, worst))
    text = [] if others else [f"The baseline is not shown: {why_no_baseline(findings, best)}."]
    return Section(key="predictions", title=title, text=text, parts=parts)


def why_nothing(findings: Findings) -> str:
    if findings.best is None:
        return "no trial has a score yet"
    return f"{findings.best.name} left no {PREDICTION}, or it is damaged"


def why_no_baseline(findings: Findings, best: Shown) -> str:
    if findings.baseline is None:
        return "no run with uniform weights has a score"
    if findings.baseline.name == best.trial.name:
        return "it is the best trial"
    return f"{findings.baseline.name} left no pictures of the same patches"


def read_shown(trial: Trial) -> Shown | None:
    """The pictures of a trial; None where there are none that can be used."""
    patches = read_patches(trial.folder / PREDICTION)
    return Shown(trial=trial, **vars(patches)) if patches else None


def worst_class(trial: Trial, classes: Sequence[str]) -> str:
    """The class with the lowest Dice at the best epoch; "" where none has one."""
    scores = {name: trial.best.get(f"dice/{name}", math.nan) for name in classes}
    finite = {name: score for name, score in scores.items() if math.isfinite(score)}
    return min(finite, key=lambda name: finite[name], default="")


def overview(trials: Mapping[str, Shown]) -> Gallery:
    """EM, truth and what each trial predicts: classes outlined, so that none hides another. By the names of rows."""
    all_shown = list(trials.values())
    best = all_shown[0]
    order = drawn_classes(best)
    rows = [
        ("EM", [Image(png=png(em), alt=f"EM of {name}") for em, name in zip(best.em, best.crops)]),
        ("truth", images(best, truth(best), order, "truth of")),
    ]
    for role, shown in trials.items():
        rows.append((role, images(shown, outlined(shown, shown.predicted, order), order, f"{role} for")))
    legend = [(TOL_MUTED[place], best.classes[c]) for c, place in places(order).items()]
    left_out = [name for c, name in enumerate(best.classes) if c not in order]
    names = listed(
        [
            f"{shown.trial.name} ({in_words(shown.trial.metric)} {short(shown.trial.score(shown.trial.metric), 3)}, "
            f"epoch {shown.best_epoch})"
            for shown in all_shown
        ]
    )
    alt = (
        f"{counted(len(best.em), 'validation patch', 'validation patches')}, in 3D three planes of "
        "each, z and x below and z and y beside: EM, truth, and "
        f"the prediction of {names} with its best weights. Classes are outlined; where nothing is annotated the truth "
        "is dark." + (f" Not drawn: {', '.join(left_out)}." if left_out else "")
    )
    return Gallery(
        key="predictions-patches",
        title="What they see and what they predict",
        alt=alt,
        columns=best.crops,
        rows=rows,
        legend=legend,
        data=patch_data(all_shown),
    )


def images(shown: Shown, pictures: Iterable[NDArray[np.uint8]], order: Sequence[int], what: str) -> list[Image]:
    """One image per patch. what: truth or prediction, with the classes that each of them shows in its text."""
    found = []
    for m, (picture, crop) in enumerate(zip(pictures, shown.crops)):
        mask = shown.present[m] & shown.known[m] if what.startswith("truth") else shown.predicted[m]
        names = listed([shown.classes[c] for c in order if mask[c].any()])
        found.append(Image(png=png(picture), alt=f"{what} {crop}: {names}"))
    return found


def errors(best: Shown, others: Sequence[Shown], name: str) -> Gallery:
    """Where a class is found, missed and wrongly seen, in the patches that hold most of it."""
    c = best.classes.index(name)
    voxels = (best.present & best.known)[:, c].sum(axis=(1, 2))
    chosen = [int(m) for m in np.argsort(-voxels, kind="stable")[:PATCHES_OF_WORST] if voxels[m]]
    rows = [("EM", [Image(png=png(best.em[m]), alt=f"EM of {best.crops[m]}") for m in chosen])]
    for shown, role in ((best, "best"), *((other, "baseline") for other in others)):
        rows.append((role, [error_image(shown, m, c, role) for m in chosen]))
    scores = listed([f"{s.trial.name} {short(s.trial.best.get(f'dice/{name}', math.nan), 3)}" for s in (best, *others)])
    alt = (
        f"{name} is the class with the lowest Dice of the best trial ({scores}). White is found, magenta a false "
        "alarm, yellow is missed; voxels in which the class is not annotated are dark."
    )
    return Gallery(
        key="predictions-worst",
        title=f"The worst class, {name}",
        alt=alt,
        columns=[best.crops[m] for m in chosen],
        rows=rows,
        legend=ERRORS,
        data=patch_data([best, *others], [name]),
    )


def error_image(shown: Shown, m: int, c: int, role: str) -> Image:
    """One patch: right, false and missed voxels of a class in colour over the EM."""
    predicted, present, known = shown.predicted[m, c], shown.present[m, c], shown.known[m, c]
    picture = grey(shown.em[m])
    counts = []
    for mask, (shade, _) in zip((predicted & present, predicted & ~present, ~predicted & present), ERRORS):
        paint(picture, shown.em[m], mask & known, rgb(shade))
        counts.append(int((mask & known).sum()))
    picture[~known] //= 3
    alt = f"{role}, {shown.crops[m]}: {counts[0]} voxels found, {counts[1]} false alarms, {counts[2]} missed"
    return Image(png=png(grown(picture)), alt=alt)


def patch_data(all_shown: Sequence[Shown], only: Sequence[str] = ()) -> pd.DataFrame:
    """Voxels per trial, patch and class: annotated, true positive, false positive, false negative."""
    rows = []
    for shown in all_shown:
        for m, crop in enumerate(shown.crops):
            for c, name in enumerate(shown.classes):
                if only and name not in only:
                    continue
                known, present, predicted = shown.known[m, c], shown.present[m, c], shown.predicted[m, c]
                rows.append(
                    {
                        "trial": shown.trial.name,
                        "patch": m,
                        "crop": crop,
                        "class": name,
                        "known": int(known.sum()),
                        "tp": int((predicted & present & known).sum()),
                        "fp": int((predicted & ~present & known).sum()),
                        "fn": int((~predicted & present & known).sum()),
                    }
                )
    return pd.DataFrame(rows)
