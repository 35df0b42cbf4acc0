"""Holds documents of format=json to their schema, and takes no field that the schema does not name."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tune_app.settings.document import Ended, as_json

SCHEMA = json.loads((Path(__file__).parents[2] / "tune_app" / "documents.schema.json").read_text())


def closed(schema: Any) -> Any:
    """The schema without room for fields that it does not name; `additionalProperties` that are said stay."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and "object" in schema.get("type", ()):
        found.setdefault("additionalProperties", False)
    return found


CLOSED = jsonschema.Draft202012Validator(closed(copy.deepcopy(SCHEMA)))


def checked(text: str) -> dict[str, Any]:
    """The one document that a text is. Fails where it is none, or not as its schema says."""
    document = json.loads(text, parse_constant=pytest.fail)
    error = jsonschema.exceptions.best_match(CLOSED.iter_errors(document))
    assert error is None, f"{error.json_path}: {error.message}"
    return dict(document)


def checked_end(verb: str, ended: int | Ended) -> dict[str, Any]:
    """The document that a verb would print."""
    assert isinstance(ended, Ended)
    return checked(as_json(verb, ended.document()))
