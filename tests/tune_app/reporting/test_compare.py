"""Two sweeps compared: same data or not, one leaderboard, and the differences of paired runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from report_page import read_report
from scipy.stats import ttest_rel
from sweep_folder import UNIFORM, WrittenTrial, write_sweep

from trainables.errors import SettingsError
from tune_app.compare import main
from tune_app.reporting.compare import CompareSettings, compare
from tune_app.reporting.page import render
from tune_app.settings.document import as_json

SCORES = {"a": [0.50, 0.52, 0.55, 0.51], "b": [0.53, 0.56, 0.56, 0.55]}


def runs(label: str, scores: list[float], signature: str, first_seed: int = 0, **more: Any) -> list[WrittenTrial]:
    return [
        WrittenTrial(label=label, dice=[(score, score)], signature=signature, seed=seed, **more)
        for seed, score in enumerate(scores, first_seed)
    ]


def change(folder: Path, **manifest: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The baseline with four seeds each, one of them in `a` alone; and an arm that only `b` has."""
    a = write_sweep(tmp_path / "a", runs("weight_uniform", [*SCORES["a"], 0.9], UNIFORM))
    b = write_sweep(tmp_path / "b", [*runs("uniform", SCORES["b"], UNIFORM), *runs("seesaw_p1", [0.7, 0.8], "s")])
    return a, b


def settings(pair: tuple[Path, Path], **more: Any) -> CompareSettings:
    return CompareSettings(a=str(pair[0]), b=str(pair[1]), **more)


def test_paired_differences_are_those_of_a_paired_t_test(pair: tuple[Path, Path]) -> None:
    found = compare(settings(pair))
    assert found.same_data is True
    assert "same data" in found.notices[0]
    best, uniform = found.paired.to_dict("records")
    assert (best["arm"], best["with"], best["seeds"]) == ("weight_uniform", "seesaw_p1", 2)
    assert (uniform["arm"], uniform["with"], uniform["seeds"]) == ("weight_uniform", "uniform", 4)
    test = ttest_rel(SCORES["b"], SCORES["a"])
    interval = test.confidence_interval(0.95)
    wanted = (np.subtract(SCORES["b"], SCORES["a"]).mean(), interval.low, interval.high)
    assert (uniform["difference"], uniform["low"], uniform["high"]) == pytest.approx(wanted)
    assert "+0.0300" in found.findings[1]
    assert "4 paired seeds): told apart" in found.findings[1]


def test_the_leaderboards_are_merged(pair: tuple[Path, Path]) -> None:
    board = compare(settings(pair)).leaderboard
    assert board["rank"].tolist() == list(range(1, 12))
    assert board[["sweep", "name"]].head(2).values.tolist() == [["a", "0004_weight_uniform"], ["b", "0005_seesaw_p1"]]
    assert board["mean_dice"].is_monotonic_decreasing


def test_different_data_have_no_common_rank_and_no_difference(pair: tuple[Path, Path]) -> None:
    change(pair[1], data={"name": "cellmap", "fingerprint": "beef"})
    found = compare(settings(pair))
    assert found.same_data is False
    assert "DIFFERENT DATA" in found.notices[0]
    assert "f00d" in found.notices[0]
    assert found.leaderboard["rank"].isna().all()
    assert len(found.leaderboard) == 11
    assert found.paired.empty
    assert found.findings == ["No differences: the scores are not comparable."]


def test_unknown_data_are_called_so(pair: tuple[Path, Path]) -> None:
    change(pair[1], data={})
    found = compare(settings(pair))
    assert found.same_data is None
    assert "not known" in found.notices[0]
    assert len(found.paired) == 2


def test_settings_that_differ_are_listed(pair: tuple[Path, Path]) -> None:
    for folder, batch in zip(pair, (8, 16)):
        stored = yaml.safe_load((folder / "sweep.yaml").read_text())
        stored |= {"trainer": {"batch_size": batch, "epochs": 9, "compile": batch == 8}, "seed": batch}
        stored["data"]["root"] = f"/data/{batch}"
        (folder / "sweep.yaml").write_text(yaml.safe_dump(stored))
    found = compare(settings(pair))
    assert found.settings.values.tolist() == [["trainer.batch_size", "8", "16"]]
    assert "validated on different patches: trainer.batch_size differ" in found.notices


def test_one_common_seed_has_no_interval_and_none_no_row(tmp_path: Path) -> None:
    a = write_sweep(tmp_path / "a", [*runs("x", [0.5, 0.6], "x"), *runs("y", [0.4], "y")])
    b = write_sweep(tmp_path / "b", [*runs("x", [0.7], "x", first_seed=1), *runs("y", [0.4], "y", first_seed=5)])
    found = compare(settings((a, b)))
    [row] = found.paired.to_dict("records")
    assert (row["arm"], row["seeds"], row["difference"]) == ("x", 1, pytest.approx(0.1))
    assert math.isnan(row["low"])
    assert "one pair tells nothing" in found.findings[0]
    c = write_sweep(tmp_path / "c", runs("y", [0.4], "y", first_seed=7))
    assert "no finished runs of the two have a seed in common" in compare(settings((a, c))).findings[0]


def test_runs_that_were_stopped_early_do_not_pair(tmp_path: Path) -> None:
    a = write_sweep(tmp_path / "a", runs("x", [0.5, 0.6], "x"))
    b = write_sweep(tmp_path / "b", [*runs("x", [0.7], "x"), *runs("x", [0.9], "x", 1, status="stopped early")])
    assert compare(settings((a, b))).paired["seeds"].tolist() == [1]


def test_the_three_forms_say_the_same(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = compare(settings(pair))
    table = found.text(100)
    assert all(len(line) <= 100 for line in table.split("\n\n")[3].splitlines()), "the leaderboard fits"
    content = json.loads(as_json("compare", found.document()), parse_constant=pytest.fail)
    assert content["same_data"] is True
    assert len(content["leaderboard"]) == 11
    assert content["paired"][1]["difference"] == pytest.approx(0.03)
    page = tmp_path / "page.html"
    page.write_text(render(found.page()))
    read = read_report(page)
    assert list(read.sections) == ["leaderboard", "paired", "settings"]
    assert len(read.sections["paired"].data["paired-differences.csv"]) == 2
    assert read.sections["settings"].nothing
    for sentence in found.findings:
        assert sentence in table.replace("\n", " ")
        assert sentence in content["findings"]
        assert sentence in read.sections["paired"].words


def test_sweeps_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for where in ("one", "two"):
        write_sweep(tmp_path / where / "same", runs("x", [0.5], "x"))
    found = compare(settings((tmp_path / "one" / "same", tmp_path / "two" / "same")))
    assert set(found.leaderboard["sweep"]) == {"a: same", "b: same"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=a"], "b='': a sweep is needed"),
        (["a=a", "b=a"], "it is the same sweep"),
        (["a=a", "b=c"], "b=c"),
        (["a=a", "b=b", "format=csv"], "format=csv"),
        (["a=a", "b=b", "out=page.txt"], "out=page.txt"),
        (["a=a", "b=b", "out=mine.html"], "is no report"),
    ],
)
def test_bad_input_is_a_sentence(
    pair: tuple[Path, Path],
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(pair[0].parent)
    (pair[0].parent / "mine.html").write_text("<p>mine</p>")
    monkeypatch.setattr("sys.argv", ["compare", f"results_dir={pair[0].parent}", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert (pair[0].parent / "mine.html").read_text() == "<p>mine</p>"


def test_command_line_writes_the_page(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pair[0].parent / "pages" / "c.html"
    monkeypatch.setattr("sys.argv", ["compare", f"results_dir={pair[0].parent}", "a=a", "b=b", f"out={out}"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    assert f"{out}   open it" in capsys.readouterr().out
    assert list(read_report(out).sections) == ["leaderboard", "paired", "settings"]
    with pytest.raises(SettingsError):
        CompareSettings(out="c.txt")
