"""From the words on the command line to typed settings, and from errors to one sentence and an exit code.

Hydra parses and composes; its own exits, log files and working-directory changes are switched off. Exit codes: 0 done,
1 a failed run, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import hydra
from hydra._internal.utils import get_args
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from trainables.errors import TrainablesError
from trainables.settings import PATH, network_names, network_preset
from tune_app.errors import InputError, TuneAppError
from tune_app.settings.document import Ended, told
from tune_app.settings.terminal import plain_output
from tune_app.settings.user import user_setting

CONF = Path(__file__).parent / "conf"
TYPES = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
"""What a setting of such a type takes, in words; OmegaConf's names of them."""
OPEN = ("space.", "task.options.", "model.options.", "data.options.", "objective.at_least.", "objective.at_most.")
"""Mappings whose keys are for the family, task, model, source or objective to check."""
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Composed(Generic[T]):
    """Typed settings, and the overrides that the person gave (as written, and as Hydra parsed their keys)."""

    settings: T
    overrides: list[str]

    @property
    def given_keys(self) -> list[str]:
        """Keys set on the command line, in order: ['family', 'trainer.epochs', …]."""
        return [override.lstrip("+~").split("=", 1)[0] for override in self.overrides]

    def bare(self, schema: type[S]) -> Composed[S]:
        """The same as `schema`, of which the settings are a subclass: without what was given beyond it."""
        names = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
        own = {field.name for field in dataclasses.fields(self.settings)} - {*names}  # type: ignore[arg-type]
        values: dict[str, Any] = {name: getattr(self.settings, name) for name in names}
        words = [word for key, word in zip(self.given_keys, self.overrides) if key.split(".")[0] not in own]
        return Composed(schema(**values), words)


def compose(verb: str, schema: type[T], argv: Sequence[str]) -> Composed[T] | None:
    """Settings of `verb` from its arguments; None where Hydra answered itself (--help, --cfg job, --version).

    Raises InputError for anything wrong with the arguments, SettingsError for a value outside its range.
    """
    _register(verb, schema)
    paths = {*path_keys(schema), "space.from"}
    argv = [_quote_path(_listed(word, schema), paths) for word in argv]
    # `space.p=…` adds a key to an open mapping, which Hydra would want written `++space.p=…`.
    argv = [f"++{word}" if word.startswith(OPEN) else word for word in argv]
    captured: list[tuple[DictConfig, list[str]]] = []

    def capture(config: DictConfig) -> None:
        captured.append((config, list(HydraConfig.get().overrides.task)))

    with _hydra_process(verb, argv), contextlib.redirect_stderr(io.StringIO()) as complaint:
        try:
            given = get_args(argv)
            _refuse_flags(given)
            if given.cfg == "job":
                sys.argv.append("--resolve")
            if vars(given) == vars(get_args([])) | {"overrides": given.overrides}:
                captured.append(_composed(verb, given.overrides))
            else:
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=verb)(capture)()
        except (TuneAppError, TrainablesError):
            raise
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
            raise _own_cause(error) or InputError(_explain(error, verb, schema, argv)) from None
        except SystemExit as exit_:
            if exit_.code not in (0, None):
                said = complaint.getvalue().strip().splitlines() or ["the arguments cannot be read"]
                raise InputError(f"{said[-1].rpartition('error: ')[2]}. {_help_of(verb)}") from None
    if not captured:
        return None
    config, overrides = captured[0]
    # `+trainer.foo=3` adds a key that nothing reads; OmegaConf lets it pass.
    known = {*_keys(OmegaConf.structured(schema)), *(prefix.removesuffix(".") for prefix in OPEN)}
    for key in _keys(config):
        if key not in known and not key.startswith(OPEN):
            raise InputError(_unknown_key(key, verb, schema))
    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        number = value.lstrip("+-").isdecimal() and value not in ("0", "1")  # OmegaConf takes any for true
        if number and isinstance(OmegaConf.select(config, key), bool):
            raise InputError(f"{word}: must be {TYPES['bool']}. {_help_of(verb)}")
    try:
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise _own_cause(error) or InputError(_explain(error, verb, schema, argv)) from None
    assert isinstance(settings, schema)
    return Composed(settings, overrides)


def _composed(verb: str, words: list[str]) -> tuple[DictConfig, list[str]]:
    """What `hydra.main` would give for settings alone, which composes twice, a quarter of a second each."""
    with hydra.initialize_config_dir(str(CONF), job_name=f"tune_app.{verb}", version_base="1.3"):
        config = hydra.compose(verb, words, return_hydra_config=True)
    with open_dict(config):
        overrides = list(config.pop("hydra").overrides.task)
    return config, overrides


def run_verb(verb: str, schema: type[T], act: Callable[[T], int | Ended | None]) -> None:
    """Entry point of `python -m tune_app.VERB`: compose, act, exit."""
    run_composed(verb, schema, lambda composed: act(composed.settings))


def run_composed(verb: str, schema: type[T], act: Callable[[Composed[T]], int | Ended | None]) -> None:
    """The same for a verb that asks what was typed."""

    def compose_and_act() -> int | None:
        composed = compose(verb, schema, sys.argv[1:])
        if composed is None:
            return 0
        return told(verb, getattr(composed.settings, "format", ""), lambda: act(composed))

    sys.exit(exit_code(compose_and_act))


def exit_code(action: Callable[[], int | None]) -> int:
    """Run `action`; print an expected error as one message and return its exit code. What is printed is plain text."""
    with plain_output(), data_told():
        try:
            return action() or 0
        except (TuneAppError, TrainablesError) as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code if isinstance(error, TuneAppError) else InputError.exit_code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@contextlib.contextmanager
def data_told() -> Iterator[None]:
    """Within it, what takes long before a first trial (generating, packing) is told on stderr when it begins."""
    logger, handler = logging.getLogger("trainables.data"), logging.StreamHandler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _register(verb: str, schema: type) -> None:
    store = ConfigStore.instance()
    for name in network_names():  # not in conf/: the trainables read them, too
        store.store(group="model", name=name, node=network_preset(name), package="_global_")
    if not OmegaConf.has_resolver("user"):
        OmegaConf.register_new_resolver("user", lambda key, default="": user_setting(key, str(default)))
    if (CONF / f"{verb}.yaml").is_file():
        store.store(name="settings", node=schema)
        return
    store.store(name=f"{verb}_settings", node=schema)
    node = {
        "defaults": [
            f"{verb}_settings",
            "_self_",
            {"override hydra/job_logging": "none"},
            {"override hydra/hydra_logging": "none"},
        ],
        "hydra": {
            "run": {"dir": "."},
            "output_subdir": None,
            "job": {"chdir": False},
            "help": {"app_name": f"tune_app.{verb}", "template": "Settings (any as key=value):\n$CONFIG\n"},
        },
    }
    store.store(name=verb, node=node)


def _listed(word: str, schema: type) -> str:
    """`data.classes=nuc` and `data.classes=nuc,pm` as the lists they are meant to be."""
    key, _, value = word.partition("=")
    bare = value and value[0] not in "[$"
    known = bare and re.fullmatch(r"[\w.]+", key)
    return f"{key}=[{value}]" if known and OmegaConf.is_list(OmegaConf.select(_schema(schema), key)) else word


@functools.cache
def _schema(schema: type) -> DictConfig:
    return OmegaConf.structured(schema)


def path_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Keys of the settings that hold a path: results_dir, data.root, …"""
    for entry in dataclasses.fields(schema):
        if PATH.items() <= entry.metadata.items():
            yield f"{prefix}{entry.name}"
        if dataclasses.is_dataclass(section := entry.default_factory):
            yield from path_keys(section, f"{prefix}{entry.name}.")


def _quote_path(word: str, paths: Collection[str]) -> str:
    """A path is written as in any shell (data.root=~/a, b), whatever Hydra's grammar makes of its characters.

    Left as it is: an empty value, one that is quoted for Hydra already or needs no quotes, and an interpolation.
    """
    key, _, value = word.partition("=")
    if key.lstrip("+") not in paths or re.fullmatch(r"""(['"]).*\1|.*\$\{.*|""", value, re.DOTALL):
        return word
    path = os.path.expanduser(value)
    with contextlib.suppress(HydraException):
        if OverridesParser.create().parse_override(f"{key}={path}").value() == path:
            return f"{key}={path}"
    return f"{key}={QuotedString(path, Quote.single).with_quotes()}"


def _refuse_flags(given: argparse.Namespace) -> None:
    """Raise InputError for what Hydra can do and a sweep must not; read by its own parser, which takes --multi too."""
    if given.multirun or any(re.match(r"\+*hydra\.mode=", word) for word in given.overrides):
        raise InputError(
            "--multirun: a sweep is already a search, one at a time. Search several families with family=all, "
            "repeat arms with seeds=3, or start the sweeps one after another"
        )
    if given.experimental_rerun is not None:
        raise InputError(
            f"--experimental-rerun {given.experimental_rerun}: is not taken, because it runs what the file says as "
            "code. Repeat a trial with trial=FILE, resume a sweep with resume=NAME"
        )


@contextlib.contextmanager
def _hydra_process(verb: str, argv: Sequence[str]) -> Iterator[None]:
    """Let Hydra read our words, raise instead of exiting, and leave nothing behind in this process."""
    saved_argv, saved_flag = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [f"tune_app.{verb}", *argv], "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.argv = saved_argv
        os.environ.pop("HYDRA_FULL_ERROR") if saved_flag is None else os.environ.update(HYDRA_FULL_ERROR=saved_flag)
        GlobalHydra.instance().clear()


def _own_cause(error: BaseException | None) -> Exception | None:
    """The error of ours that OmegaConf wrapped in one of its own, should there be one."""
    while error is not None and not isinstance(error, (TrainablesError, TuneAppError)):
        error = error.__cause__ or error.__context__
    return error


def _explain(error: Exception, verb: str, schema: type, argv: Sequence[str]) -> str:
    """One message for a composition error: what was given, what is wrong, the choices, the fix."""
    text = f"{error}\n{error.__cause__ or ''}"
    unknown = re.search(r"(?:Could not override|Error merging override) '?([\w.+~@/-]+?)'?[.=\n]", text)
    if "is not in struct" in text or "not in '" in text or "No match in the defaults list" in text:
        missing = re.search(r"Key '([\w.]+)' (?:is )?not in", text)
        full = re.search(r"full_key: ([\w.]+)", text)
        key = next((m.group(1) for m in (full, unknown, missing) if m), "this key")
        return _unknown_key(key, verb, schema)
    if misspelt := _misspelt(argv, schema):  # the value of no setting of ours cannot be told to be a path or a list
        return _unknown_key(misspelt, verb, schema)
    several = re.search(r"Ambiguous value for argument '(.+?)=(.+)'", text)
    if several:  # Hydra's way of asking for two runs
        key, values = several[1], several[2]
        said = f"{key}={values}: one value is taken, and the comma makes two of it. "
        if key == "family":
            return f"{said}Search the families together: family=all space.family=[{values}], or one after another"
        return f"{said}Give one of them; a sweep is one search. A comma that belongs to the value: \"{key}='{values}'\""
    if "missing EQUAL" in text:
        word = next((word for word in argv if "=" not in word and not word.startswith("-")), "key")
        return f"{word}: a setting is written key=value, for example trainer.epochs=9. {_help_of(verb)}"
    choice = re.search(r"Could not find '([\w/.@-]+)/([^']+)'(.*?)(?:Config search path|$)", text, re.DOTALL)
    if choice:
        group, given, options = choice.groups()
        return f"{group}={given}: there is no such choice. Choices: {', '.join(options.split()[4:])}. {_help_of(verb)}"
    odd = re.search(r"LexerNoViableAltException: ([\w.+]+)=(.*)", text)
    if odd:
        return f'{odd[1]}={odd[2]}: has a character that is taken in quotes only: "{odd[1]}={_quoted(odd[2])}"'
    first, *rest = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()]
    given = re.search(r"Error (?:merging|parsing) override '?(.+?)'?$", first)
    if given:
        if "is not Optional" in text:
            return f"{given[1]}: takes a value, not null. {_help_of(verb)}"
        kind = re.search(rf"(?:be converted to|not a valid) ({'|'.join(TYPES)})\b", text)
        rule = f"must be {TYPES[kind[1]]}" if kind else rest[0] if rest else "cannot be read"
        return f"{given.group(1)}: {rule}. {_help_of(verb)}"
    return f"{' '.join(argv)}: {first}. Write key=value. {_help_of(verb)}"


def _quoted(value: str) -> str:
    """The value in quotes for Hydra; of a list, those of its words that need them."""
    if not (value.startswith("[") and value.endswith("]")):
        return f"'{value}'"
    words = [word.strip(" '\"") for word in value[1:-1].split(",")]
    plain = re.compile(r"[A-Za-z_]\w*", re.ASCII)
    return f"[{','.join(word if plain.fullmatch(word) else repr(word) for word in words)}]"


def _help_of(verb: str) -> str:
    return f"python -m tune_app.{verb} --help shows what can be given"


def _misspelt(argv: Sequence[str], schema: type) -> str:
    """The first key in a section of ours that is none of its settings; empty without one."""
    known = _keys(_schema(schema))
    sections = {key.rpartition(".")[0] for key in known} - {""}
    keys = (word.lstrip("+~").partition("=")[0] for word in argv)
    return next((key for key in keys if key.rpartition(".")[0] in sections and key not in known), "")


def _unknown_key(key: str, verb: str, schema: type) -> str:
    known = _keys(_schema(schema))
    if below := [k for k in known if k.startswith(f"{key}.")]:
        instead = next((f.metadata.get("instead") for f in dataclasses.fields(schema) if f.name == key), None)
        return f"{key}: is a section and takes no value; {', '.join(below)} are in it. {instead or _help_of(verb)}"
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    siblings = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return (
        f"{key}: there is no such setting. {hint}Choices here: {', '.join(siblings or known)}. "
        f"python -m tune_app.{verb} --help shows all"
    )


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name in config:
        keys.append(f"{prefix}{name}")
        if OmegaConf.is_dict(config._get_node(name)):  # config[name] would resolve interpolations
            keys += _keys(config._get_node(name), f"{prefix}{name}.")
    return keys
