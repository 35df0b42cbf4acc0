"""What a person sets once: environment variables, or the user settings file.

    TUNE_APP_DATA_ROOT    data_root:     folder of the CellMap data sets, for data=cellmap
    TUNE_APP_CACHE        cache_dir:     node-local cache (packed crops, phantom, compiled graphs)
    TUNE_APP_RESULTS      results_dir:   where sweep folders go

The environment wins. The file is $TUNE_APP_SETTINGS, or ~/.config/tune_app/settings.yaml.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import yaml

from tune_app.errors import InputError

ENVIRONMENT = {"data_root": "TUNE_APP_DATA_ROOT", "cache_dir": "TUNE_APP_CACHE", "results_dir": "TUNE_APP_RESULTS"}


def settings_file() -> Path:
    """The path of the user settings file, which need not exist."""
    given = os.environ.get("TUNE_APP_SETTINGS")
    return Path(given).expanduser() if given else Path.home() / ".config" / "tune_app" / "settings.yaml"


def user_setting(key: str, default: str = "") -> str:
    """The user's value of `key` (environment, then file), or `default`."""
    value = os.environ.get(ENVIRONMENT[key]) or _from_file(settings_file()).get(key) or default
    return str(Path(value).expanduser()) if value else ""


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (FileNotFoundError, NotADirectoryError):
        if os.environ.get("TUNE_APP_SETTINGS"):
            raise InputError(f"TUNE_APP_SETTINGS={path}: there is no such file. Correct it, or unset it") from None
        return {}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). It must be a file that you may read") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path} is no valid YAML ({str(error).splitlines()[0]}). Write lines like data_root: /data"
        ) from None
    unknown = sorted(set(values) - set(ENVIRONMENT)) if isinstance(values, dict) else [str(values)]
    if unknown:
        close = difflib.get_close_matches(str(unknown[0]), ENVIRONMENT, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise InputError(f"{path}: unknown key {', '.join(map(str, unknown))}. {hint}Choices: {', '.join(ENVIRONMENT)}")
    return values
