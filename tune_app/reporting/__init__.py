"""The sections of the report: one file per group of them. They read a sweep through `tune_app.results` only.

page.py            sections, pictures and tables to one HTML file, with page.css and page.js
findings.py        what the sections share: the sweep, its rungs, its best trial, its baseline; diagnoses, manifest
plots.py           the look of all plots; colours that colour-blind readers can tell apart
leaderboard.py     leaderboard with intervals, and bars per class
confirmation.py    means over fresh seeds, and who ties with the best
curves.py          training curves with rungs and stops
families.py        families as distributions
parameters.py      importance, slices and parallel coordinates, by Optuna
thresholds.py      Dice against threshold
predictions.py     EM, truth and prediction
ledger.py          hours spent, saved and lost; the plan beside what came of it
"""
