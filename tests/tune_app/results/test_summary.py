"""The summary: its four forms, references of other pipelines, and what it must not keep quiet."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from importlib import resources
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
import pytest
from rich.text import Text
from sweep_folder import WrittenTrial, summarise, write_sweep

from search_spaces import PUBLISHED, get_family
from trainables.errors import SettingsError
from tune_app.errors import InputError
from tune_app.results.reference import NOT_COMPARABLE, PUBLISHED_CAUTION, read_reference
from tune_app.results.summary import FORMATS, PHANTOM, SummarySettings, summarise_and_print
from tune_app.results.sweep import Sweep
from tune_app.results.tables import fit, natural_width, sentences, shortened, text_pages, text_table
from tune_app.settings.command_line import exit_code
from tune_app.settings.terminal import COLOUR
from tune_app.summary import main

NAN = float("nan")
THIRD = 1 / 3
TRIALS = [
    WrittenTrial(label="seesaw_default", preset="seesaw_default", dice=[(0.5, 0.5), (0.8, THIRD)]),
    WrittenTrial(label="seesaw_p0.3", dice=[(0.4, 0.2)], status="stopped early", params={"p": 0.3}),
    WrittenTrial(label="seesaw_p1.9", dice=[(0.9, 0.9), (NAN, NAN)], status="failed: nan", params={"p": 1.9}),
    WrittenTrial(label="seesaw_p0.7", status="waiting"),
]
PUBLISHED_BEST = {  # class: (Dice, configuration), of the published results
    "nuc": (0.8653, "weight_sqrt_inv"),
    "mito_mem": (0.7137, "weight_inv_freq"),
    "er_mem": (0.4406, "cb_beta_0.99"),
    "pm": (0.5285, "weight_uniform"),
    "golgi_mem": (0.4350, "weight_log_inv"),
}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "results" / "a", TRIALS, phantom=True)


def test_csv_is_exact_and_machine_readable(sweep: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(summarise(sweep, format="csv", reference="published"))))
    ours, others = rows[:5], rows[5:]
    assert [row["rank"] for row in ours] == ["1", "2", "", "", ""]
    assert float(ours[0]["dice/pm"]) == THIRD
    assert (ours[4]["name"], ours[4]["status"], ours[4]["baseline"]) == ("weight_uniform", "not run", "True")
    assert {row["note"] for row in ours} == {"phantom data"}
    assert len(others) == 15
    assert {(row["rank"], row["note"], row["status"]) for row in others} == {("", NOT_COMPARABLE, "reference")}
    board = Sweep(sweep).leaderboard()
    read = pd.read_csv(io.StringIO(summarise(sweep, format="csv")))
    for column in ("mean_dice", "calibrated_mean_dice", "threshold_gap", "calibrated/pm", "threshold/nuc"):
        pd.testing.assert_series_equal(read[column][:4], board[column], check_exact=True)


def test_json_is_strict_and_complete(sweep: Path) -> None:
    found = json.loads(summarise(sweep, format="json", reference="published"), parse_constant=pytest.fail)
    assert found["leaderboard"][0]["name"] == "0000_seesaw_default"
    assert found["leaderboard"][0]["dice/pm"] == THIRD
    assert found["leaderboard"][2]["mean_dice"] is None
    assert found["phantom"] is True
    assert found["notices"][0] == PHANTOM
    assert len(found["reference"]) == 15
    assert found["best_per_class"][0]["name"] == "0000_seesaw_default"
    assert [row["name"] for row in found["failed"]] == ["0002_seesaw_p1.9"]
    assert found["noise"] is None


def test_markdown_tables_have_one_width(sweep: Path) -> None:
    text = summarise(sweep, format="md", reference="published")
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    assert f"**{PHANTOM}**" in text
    assert "| 1 | 0 | 0000_seesaw_default | 0.5667 | 0.5667 | +0.0000 | 0.8000 | 0.3333 |" in text


@pytest.mark.parametrize("form", ["table", "md", "json"])
def test_every_form_says_what_limits_the_result(sweep: Path, form: str) -> None:
    text = summarise(sweep, format=form, reference="published")
    for expected in (
        PHANTOM,
        "screening score",
        NOT_COMPARABLE,
        "the loss is not finite at epoch 2",
        "stopped early",
        "run five times",
        "inside that seed noise",
    ):
        assert expected in text


def test_no_phantom_is_claimed_for_real_data(tmp_path: Path) -> None:
    assert PHANTOM not in summarise(write_sweep(tmp_path / "a", TRIALS), format="table")


def test_csv_warns_on_standard_error_only(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summarise_and_print(SummarySettings(sweep=str(sweep), format="csv")).code == 0
    captured = capsys.readouterr()
    assert PHANTOM in captured.err
    assert "!!" not in captured.out
    assert captured.out.startswith("rank,number,name")


def test_noise_is_told_where_an_arm_was_repeated(tmp_path: Path) -> None:
    runs = [
        WrittenTrial(label=label, dice=[(score, score)], signature="u", seed=seed)
        for seed, (label, score) in enumerate({"weight_uniform": 0.5, "cb_beta_0.99": 0.6}.items())
    ]
    text = summarise(write_sweep(tmp_path / "a", runs))
    assert "cb_beta_0.99 = weight_uniform" in text
    assert "sd 0.0707" in text
    assert "must differ by 1.2706" in text, "t(0.975, 1) · √2 · 0.0707"


@pytest.mark.parametrize("status", ["crashed", "interrupted"])
def test_an_unfinished_sweep_says_how_to_go_on(tmp_path: Path, status: str) -> None:
    recorded = "running" if status == "crashed" else status
    folder = write_sweep(tmp_path / "a", TRIALS, status=recorded)
    assert f"python -m tune_app.run resume={folder}" in summarise(folder)


@pytest.mark.parametrize("form", FORMATS)
def test_a_sweep_without_trials_can_be_summarised(tmp_path: Path, form: str) -> None:
    text = summarise(write_sweep(tmp_path / "a", []), format=form, reference="published")
    assert "balanced_softmax_tau_1.0" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_fourteen_classes_fit_the_terminal(tmp_path: Path, width: int) -> None:
    classes = [f"class_{i:02d}" for i in range(14)]
    trial = WrittenTrial(label="seesaw_default", dice=[[0.1 * (i % 9) for i in range(14)]])
    text = summarise(write_sweep(tmp_path / "a", [trial], classes=classes), width=width, color=True)
    plain = Text.from_ansi(text).plain.splitlines()
    rows = [line for line in plain if "seesaw_default" in line or "class_" in line]
    assert max(map(len, rows)) <= width
    for name in classes:
        assert any(name in line for line in rows)


def test_fit_drops_in_order_and_then_splits() -> None:
    frame = pd.DataFrame({"name": ["n"], "a": ["x" * 10], "b": ["y" * 10], "c": ["z" * 10]})
    assert [list(page) for page in fit(frame, None, ("a",), ("name",))] == [["name", "a", "b", "c"]]
    assert [list(page) for page in fit(frame, 40, ("a", "b"), ("name",))] == [["name", "b", "c"]]
    assert [list(page) for page in fit(frame, 22, ("a",), ("name",))] == [["name", "b"], ["name", "c"]]
    assert max(map(len, text_table(frame, None).splitlines())) <= natural_width(frame)


LONG = "seesaw_p0.3141592_q1.2718281_frequency_share_of_all_voxels"


@pytest.mark.parametrize("width", [60, 80, 112, 160])
def test_names_lose_their_middle_and_numbers_nothing(width: int) -> None:
    frame = pd.DataFrame(
        {
            "rank": [1, 2],
            "name": [f"0000_{LONG}", f"0001_{LONG}"],
            "best_epoch": [12, 3],
            "mean_dice": [0.56789, 0.5],
            "minutes": [1234.5, 1.0],
            "reason": ["the loss is not finite at epoch 2, gradient norm inf", f"see {LONG}"],
        }
    )
    text = text_pages(frame, width, ("minutes",), ("rank", "name"))
    assert max(map(len, text.splitlines())) <= width
    assert all(number in text.split() for number in ("12", "0.5679", "0.5000"))
    rows = [line for line in text.splitlines() if re.match(r" +[12]  ", line)]
    assert len(rows) == 2 * len(text.split("\n\n"))
    assert all(re.match(r" +([12])  000[01]_seesaw\S*voxels  ", row) for row in rows)
    assert (f"0000_{LONG} " in text) == (width >= 112)
    for word in ("rank", "name", "best", "epoch", "mean", "Dice", "gradient", "reason"):
        assert word in text.split(), "a heading, or a word, is not broken"
    assert ("minutes" in text) == (width == 160), "columns go before names are shortened"


def test_what_is_shortened_keeps_both_ends() -> None:
    assert [shortened("0000_seesaw_p0.8", room) for room in (16, 15, 9, 2)] == [
        "0000_seesaw_p0.8",
        "0000_se…aw_p0.8",
        "0000…p0.8",
        "0…",
    ]


def test_sentences_are_wrapped_and_commands_left_whole() -> None:
    text = "Before choosing, and it takes long: python -m tune_app.confirm sweep=mine top=4 replicates=5. Then see."
    assert sentences(text, 40).splitlines() == [
        "Before choosing, and it takes long:",
        "python -m tune_app.confirm sweep=mine top=4 replicates=5.",
        "Then see.",
    ]
    assert sentences(text, None) == text


def test_the_published_fifteen_are_those_of_the_paper() -> None:
    frame = read_reference("published", list(PUBLISHED_BEST), "mean_dice").set_index("name")
    assert set(frame.index) == set(PUBLISHED)
    assert frame["minutes"].sum() == 4788
    assert frame.index[0] == "balanced_softmax_tau_1.0"
    for name, (dice, best) in PUBLISHED_BEST.items():
        assert (frame[f"dice/{name}"].max(), frame[f"dice/{name}"].idxmax()) == (dice, best)
    per_class = frame[[f"dice/{name}" for name in PUBLISHED_BEST]].mean(axis=1)
    assert set(frame.index[per_class.isna()]) == set(get_family("seesaw").presets), "of these the mean alone is known"
    assert (per_class - frame["mean_dice"]).abs().max() < 1e-4
    same = frame.loc[[n for n in frame.index if n in ("weight_uniform", "weight_effective_num") or n[:3] == "cb_"]]
    assert len(same) == 5
    assert mean(same["mean_dice"]) == pytest.approx(0.5361, abs=5e-5)
    assert stdev(same["mean_dice"]) == pytest.approx(0.0127, abs=5e-5)
    seesaw = frame.loc[per_class.isna(), "mean_dice"]
    assert max(seesaw - mean(same["mean_dice"])) == pytest.approx(0.0202, abs=5e-5)
    noise = 2.7764 * stdev(same["mean_dice"]) * math.sqrt(1 + 1 / 5)  # t(0.975, 4)
    assert noise == pytest.approx(0.0385, abs=5e-5)
    assert all(figure in PUBLISHED_CAUTION for figure in ("0.0202", "0.0385", "inside that seed noise"))


def test_the_published_results_ship_with_the_package() -> None:
    text = resources.files("tune_app.results").joinpath("published/results_fifteen.json").read_text()
    assert json.loads(text)["classes"] == list(PUBLISHED_BEST)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.json", '[{"name": "x", "mean": 0.5, "nuc": 0.6}, {"name": "y", "mean_dice": 0.7, "dice": {"pm": 0.1}}]'),
        ("r.csv", "name,mean,nuc,pm\nx,0.5,0.6,\ny,0.7,,0.1\n"),
        ("r.CSV", "\ufeffname,mean_dice,dice/nuc,dice/pm\nx,0.5,0.6,\ny,0.7,,0.1\n"),
    ],
)
def test_reference_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    frame = read_reference(str(tmp_path / name), ["nuc", "pm"], "mean_dice")
    assert frame["name"].tolist() == ["y", "x"]
    assert frame.loc[1, "dice/nuc"] == 0.6
    assert frame["dice/pm"].isna().tolist() == [False, True]


def test_a_summary_of_another_sweep_is_a_reference(sweep: Path, tmp_path: Path) -> None:
    finished = write_sweep(tmp_path / "b", TRIALS[:1])
    for form in ("csv", "json"):
        path = tmp_path / f"r.{form}"
        path.write_text(summarise(finished, format=form))
        found = json.loads(summarise(sweep, format="json", reference=str(path)))
        assert found["reference"][0]["dice/pm"] == THIRD
        assert [row["status"] for row in found["leaderboard"]][-1] == "not run"
        assert len(found["leaderboard"]) == 5


EVIL = "\x1b]0;owned\x07\x1b[2J\x9b8m\u202e<img src=x onerror=alert(1)>[a](b)|`c`"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A sweep of somebody who means harm: in names, classes, parameters, statuses, errors."""
    trials = [
        WrittenTrial(label=EVIL, dice=[(0.5, 0.5)], signature=EVIL, params={EVIL: 0.1}),
        WrittenTrial(label=EVIL, dice=[(0.4, 0.5)], signature=EVIL, family="=1+1"),
        WrittenTrial(label="b", dice=[(0.4, 0.2)], status="failed: error", family="@SUM(A1)"),
    ]
    folder = write_sweep(tmp_path / EVIL.replace("/", ""), trials, classes=[f"-{EVIL}", "+pm"], status="crashed")
    (folder / "trials" / "0002_b" / "error.txt").write_text(f"RuntimeError: {EVIL}")
    return folder


def printed(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> str:
    """What `summary` shows of the folder in a terminal."""
    settings = SummarySettings(sweep=str(folder), **dict(word.split("=") for word in words))
    exit_code(lambda: summarise_and_print(settings).code)
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize("form", FORMATS)
def test_a_foreign_sweep_sends_no_escape_sequence(
    hostile: Path, form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = (
        printed(capsys, hostile, f"format={form}")
        + printed(capsys, hostile, "by=none")
        + printed(capsys, hostile / "x")
    )
    assert "<img" in text or form == "md"
    ours = COLOUR.sub("", text) if form == "table" else text
    assert [c for c in ours if c != "\n" and not c.isprintable()] == []


def test_a_foreign_sweep_brings_no_formula_into_a_spreadsheet(hostile: Path) -> None:
    rows = list(csv.reader(io.StringIO(summarise(hostile, format="csv"))))
    assert "'=1+1" in rows[2]
    assert "'@SUM(A1)" in rows[3]
    texts = [text for row in rows for text in row if not re.fullmatch(r"-?[\d.e-]+", text)]
    assert [text for text in texts if text.startswith(("=", "+", "-", "@"))] == []


def test_a_foreign_sweep_brings_no_html_into_markdown(hostile: Path) -> None:
    text = summarise(hostile, format="md")
    assert "<" not in text
    assert not re.search(r"(?<!\\)[\[`]", text)
    for block in (block for block in text.split("\n\n") if block.startswith("|")):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot be read"),
        ("[]", "no rows"),
        ("3", "no rows"),
        ('[{"mean": 0.5}]', "row 1 has no name"),
        ('[{"name": "x"}]', "row 1 has no mean"),
        ('[{"name": "x", "mean": 57.1}]', r"Write 0\.57"),
        ('[{"name": "x", "mean": "high"}]', "mean_dice=high is not a number"),
    ],
)
def test_a_bad_reference_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_reference(str(tmp_path / "r.json"), ["nuc"], "mean_dice")


def test_a_missing_reference_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Choices: published"):
        read_reference(str(tmp_path / "none.csv"), ["nuc"], "mean_dice")


def test_bad_settings_are_refused(sweep: Path) -> None:
    with pytest.raises(SettingsError, match="table, csv, json, md"):
        SummarySettings(format="xml")
    with pytest.raises(InputError, match=r"by=golgi.*Choices"):
        summarise(sweep, by="golgi")


def test_command_line(sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["summary", "sweep=latest", f"results_dir={sweep.parent}", "format=json"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    assert json.loads(capsys.readouterr().out)["sweep"] == "a"
