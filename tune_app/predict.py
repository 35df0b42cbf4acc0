"""python -m tune_app.predict checkpoint=best/1 crop=jrc_hela-2/crop155 out=pred.zarr: an export applied to a volume."""

from __future__ import annotations

from tune_app.exporting.predict import PredictSettings, predict_and_print
from tune_app.settings.command_line import run_verb


def main() -> None:
    run_verb("predict", PredictSettings, predict_and_print)


if __name__ == "__main__":
    main()
