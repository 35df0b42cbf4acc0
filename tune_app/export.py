"""python -m tune_app.export sweep=latest top=3 out=best: the best configurations as folders that stand on their own."""

from __future__ import annotations

from tune_app.exporting.export import ExportSettings, export_and_print
from tune_app.settings.command_line import run_verb


def main() -> None:
    run_verb("export", ExportSettings, export_and_print)


if __name__ == "__main__":
    main()
