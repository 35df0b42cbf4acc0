"""The reader of a sweep folder, and what it finds there."""

from tune_app.results.sweep import Sweep

__all__ = ["Sweep"]
