"""Two trials or exports compared: what differs, on other crops and on other seeds, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_page import read_report
from scipy.stats import ttest_rel
from sweep_folder import WrittenTrial, write_sweep

from trainables.errors import SettingsError
from tune_app.compare import main
from tune_app.errors import InputError
from tune_app.exporting import export as export_module
from tune_app.exporting.export import ExportSettings, export
from tune_app.reporting.compare import CompareSettings, compare
from tune_app.reporting.compare_runs import RunComparison
from tune_app.reporting.page import render
from tune_app.settings.document import as_json

SCORES = {"narrow": [0.50, 0.52, 0.55], "wide": [0.53, 0.56, 0.56]}


def arm(label: str, **more: Any) -> list[WrittenTrial]:
    return [
        WrittenTrial(
            label=label,
            preset=label,
            dice=[(score - 0.1, score), (score, score)],
            signature=label,
            seed=seed,
            params={"p": 0.8 if label == "narrow" else 1.5},
            **more,
        )
        for seed, score in enumerate(SCORES[label])
    ]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trials 0 to 2 are narrow, 3 to 5 wide; their crops are counted differently."""
    monkeypatch.setenv("TUNE_APP_RESULTS", str(tmp_path))
    monkeypatch.setattr(export_module, "write_program", lambda *_: "")
    folder = write_sweep(tmp_path / "a", [*arm("narrow"), *arm("wide")])
    count_again(folder / "trials" / "0003_wide", tp=[[80, 40], [20, 10]], fp=[[10, 10], [5, 2]], fn=[[20, 30], [5, 4]])
    count_again(folder / "trials" / "0000_narrow", tp=[[70, 30], [9, 9]], fp=[[10, 10], [5, 2]], fn=[[30, 40], [16, 5]])
    return folder


def count_again(trial: Path, **counts: list[list[int]]) -> None:
    """TP, FP and FN (crops, classes) at the best epoch, the second."""
    with np.load(trial / "validation.npz") as file:
        arrays = dict(file)
    for name, values in counts.items():
        arrays[name][1] = values
    np.savez(trial / "validation.npz", **arrays)


def compared(a: Path | str, b: Path | str) -> RunComparison:
    found = compare(CompareSettings(a=str(a), b=str(b)))
    assert isinstance(found, RunComparison)
    return found


@pytest.mark.parametrize("names", [("a/0", "a/3"), ("latest/0000_narrow", "a/0003_wide"), ("folder", "folder")])
def test_two_trials_by_any_of_their_names(sweep: Path, names: tuple[str, str]) -> None:
    a, b = names if names[0] != "folder" else (sweep / "trials" / "0000_narrow", sweep / "trials" / "0003_wide")
    found = compared(a, b)
    assert found.names == ("a/0000_narrow", "a/0003_wide")
    assert found.same_data is True
    assert found.settings["setting"].tolist() == ["loss.params.p"]
    assert found.settings[["a", "b"]].values.tolist() == [["0.8", "1.5"]]


def test_figures_have_intervals_over_crops_and_pairs_over_seeds(sweep: Path) -> None:
    found = compared("a/0", "a/3")
    rows = found.figures.set_index("figure")
    assert rows.loc["mean_dice", "difference"] == pytest.approx(0.03)
    assert rows.loc["mean_dice", "low"] < 0.03 < rows.loc["mean_dice", "high"]
    assert np.isnan(rows.loc["mean_iou", "low"])
    test = ttest_rel(SCORES["wide"], SCORES["narrow"])
    interval = test.confidence_interval(0.95)
    (pair,) = found.paired.to_dict("records")
    assert (pair["arm"], pair["with"], pair["seeds"]) == ("narrow", "wide", 3)
    expected = (np.subtract(SCORES["wide"], SCORES["narrow"]).mean(), interval.low, interval.high)
    assert (pair["difference"], pair["low"], pair["high"]) == pytest.approx(expected)
    assert "over other validation crops" in found.findings[0]
    assert "3 paired seeds" in found.findings[1]


def test_a_score_that_is_no_dice_has_no_interval_of_dice(sweep: Path) -> None:
    """One label per sample: its counts are TP, FP and FN, too, and balanced accuracy is not made of them alike."""
    for name in ("0000_narrow", "0003_wide"):
        path = sweep / "trials" / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"task": {"name": "classification", "options": {}}}))
        rows = sweep / "trials" / name / "history.jsonl"
        rows.write_text(rows.read_text().replace('"mean_iou"', '"balanced_accuracy"'))
    rows = compared("a/0", "a/3").figures.set_index("figure")
    assert np.isfinite(rows.loc["balanced_accuracy", "difference"])
    assert np.isnan(rows.loc["balanced_accuracy", "low"])
    assert np.isfinite(rows.loc["dice/nuc", "low"])


def test_seeds_of_a_confirmation_pair_too(sweep: Path) -> None:
    later = [WrittenTrial(**{**vars(one), "seed": (one.seed or 0) + 100}) for one in (*arm("narrow"), *arm("wide"))]
    write_sweep(sweep / "confirmation", later)
    assert compared("a/0", "a/3").paired["seeds"].tolist() == [6]


def test_runs_of_one_arm_do_not_pair_with_themselves(sweep: Path) -> None:
    found = compared("a/0", "a/1")
    assert found.paired.empty
    assert "Both are runs of one configuration" in " ".join(found.findings)


def test_scores_of_other_data_are_not_set_against_each_other(sweep: Path, tmp_path: Path) -> None:
    other = write_sweep(tmp_path / "other", arm("wide"))
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text().replace("f00d", "beef"))
    found = compared("a/0", "other/0")
    assert found.same_data is False
    assert found.notices[0].startswith("DIFFERENT DATA")
    assert found.figures["low"].isna().all()
    assert found.paired.empty


def test_an_export_is_its_trial_while_the_sweep_is_there_and_itself_afterwards(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "best"
    export(ExportSettings(sweep=str(sweep), out=str(out), top=6), tell=lambda _: None)
    wide = next(f for f in out.iterdir() if json.loads((f / "manifest.json").read_text())["trial"] == "0003_wide")
    with pytest.raises(SettingsError, match="it is the same trial as a="):
        compared(wide, "a/3")
    before = compared("a/0", wide)
    assert before.names == ("a/0000_narrow", str(wide))
    assert before.figures.set_index("figure").loc["mean_dice", "low"] < 0.03
    assert len(before.paired) == 1
    kept = tmp_path / "elsewhere" / "narrow"
    shutil.copytree(next(f for f in out.iterdir() if "0000_narrow" in (f / "manifest.json").read_text()), kept)
    shutil.rmtree(sweep)
    after = compared(kept, wide)
    assert after.figures.set_index("figure").loc["mean_dice", "difference"] == pytest.approx(0.03)
    assert after.figures["low"].isna().all()
    assert after.settings["setting"].tolist() == ["loss.params.p"]
    assert after.facts["seed"].tolist() == [0, 0]
    assert after.paired["seeds"].tolist() == [1]


def test_text_json_and_page_say_the_same(sweep: Path, tmp_path: Path) -> None:
    found = compared("a/0", "a/3")
    text = found.text(80)
    assert max(map(len, text.splitlines())) <= 80
    assert "told apart" in text
    content = json.loads(as_json("compare", found.document()), parse_constant=pytest.fail)
    assert {row["figure"] for row in content["figures"]} >= {"mean_dice", "dice/nuc", "mean_iou"}
    page = tmp_path / "page.html"
    page.write_text(render(found.page()))
    report = read_report(page)
    assert list(report.sections) == ["runs", "figures", "paired", "curves", "predictions", "settings"]
    assert set(report.sections["figures"].plots) == {"figure-differences"}
    assert "told apart" in report.sections["paired"].words
    assert report.sections["predictions"].nothing.startswith("Nothing to show: a/0000_narrow and a/0003_wide left no")


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("a", "a/3", "a=a: is a sweep, and the other one is a single run; two of a kind are compared"),
        ("a/9", "a/3", "trial 9: a has no such trial. Choices: 0000_narrow"),
        ("a/0", "a/0000_narrow", "b=a/0000_narrow: it is the same trial as a=a/0"),
        ("nowhere/0", "a/0", "a=nowhere/0: does not exist"),
        ("broken", "a/0", "a=broken: its config.yaml, metrics.json or manifest.json is missing or damaged"),
    ],
)
def test_bad_input_is_a_sentence(
    sweep: Path,
    tmp_path: Path,
    a: str,
    b: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text('{"kind": "tune_app export"}')
    monkeypatch.setattr("sys.argv", ["compare", f"a={a}", f"b={b}"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_of_exports_names_one(sweep: Path, tmp_path: Path) -> None:
    export(ExportSettings(sweep=str(sweep), out=str(tmp_path / "best"), top=2), tell=lambda _: None)
    with pytest.raises(InputError, match=r"holds 2 exports: give a=.*best/1"):
        compared(tmp_path / "best", "a/0")
