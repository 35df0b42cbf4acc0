"""python -m tune_app.summary sweep=latest: what a sweep has found, as a table, CSV, JSON or Markdown."""

from __future__ import annotations

from tune_app.results.summary import SummarySettings, summarise_and_print
from tune_app.settings.command_line import run_verb


def main() -> None:
    run_verb("summary", SummarySettings, summarise_and_print)


if __name__ == "__main__":
    main()
