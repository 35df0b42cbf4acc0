"""python -m tune_app.compare a=SWEEP b=SWEEP: two sweeps side by side."""

from __future__ import annotations

from tune_app.reporting.compare import CompareSettings, compare_and_print
from tune_app.settings.command_line import run_verb


def main() -> None:
    run_verb("compare", CompareSettings, compare_and_print)


if __name__ == "__main__":
    main()
