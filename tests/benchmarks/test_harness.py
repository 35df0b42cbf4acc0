"""The ratio, the verdict and the table of the benchmarks; not what they measure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks.harness import Result, interleaved, main, number, ratios, table


def result(*values: float, **fields: object) -> Result:
    return Result(**{"claim": "ours ÷ theirs", "values": values, "target": 2.0} | fields)  # type: ignore[arg-type]


def test_interleaved_alternates_who_goes_first() -> None:
    calls: list[str] = []

    def side(name: str, value: float) -> float:
        calls.append(name)
        return value

    pairs = interleaved(lambda: side("a", 6.0), lambda: side("b", 2.0), 3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert pairs == [(6.0, 2.0)] * 3
    assert ratios(pairs) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(("at_least", "reached"), [(True, [False, True, True]), (False, [True, True, False])])
def test_the_median_decides(at_least: bool, reached: list[bool]) -> None:
    samples = [(0.1, 1.9, 9.0), (2.0, 2.0, 0.1), (1.0, 2.1, 3.0)]
    assert [result(*values, at_least=at_least).reached for values in samples] == reached


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.123"), (1.234, "1.23"), (56.78, "56.8"), (1234.5, "1 234"), (0.0, "0.000")]
)
def test_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_row_has_median_spread_target_and_verdict() -> None:
    assert result(1.0, 3.0, 2.5).row() == ["ours ÷ theirs", "2.50 ×", "1.00 … 3.00", "≥ 2.00 ×", "reached"]
    assert result(1.0, unit="").row() == ["ours ÷ theirs", "1.00", "once", "≥ 2.00", "MISSED"]


@pytest.mark.parametrize(("value", "code"), [(3.0, 0), (1.0, 1)])
def test_main_writes_json_and_exits_by_the_target(
    value: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: object) -> Iterator[Result]:
        yield result(value, note="in a test")

    path = tmp_path / "results.json"
    with pytest.raises(SystemExit) as stop:
        main("A test.", run, argv=["--json", str(path)])
    assert stop.value.code == code
    assert json.loads(path.read_text())[0]["values"] == [value]
    assert "in a test" in capsys.readouterr().out


def test_every_benchmark_of_the_table_exists() -> None:
    found = {path.stem for path in (runner.ROOT / "benchmarks").glob("*.py")}
    assert set(runner.NAMES) <= found


def test_the_page_table_replaces_only_what_is_between_the_markers() -> None:
    page = f"before\n{runner.BEGIN}\nold\n{runner.END}\nafter\n"
    assert runner.replace_between(page, "new") == f"before\n{runner.BEGIN}\nnew\n{runner.END}\nafter\n"
    with pytest.raises(ValueError, match="must hold the lines"):
        runner.replace_between("no markers", "new")


def test_the_performance_page_can_be_written_to() -> None:
    page = runner.PAGE.read_text()
    assert "a new table" in runner.replace_between(page, "a new table")


def test_table_is_markdown() -> None:
    assert table([["1", "2"]], ["a", "b"]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
