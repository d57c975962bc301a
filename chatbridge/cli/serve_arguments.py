"""The flags of `chatbridge serve`, made from the fields of its settings."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from typing import Any, get_args, get_origin

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.field_help import field_help, type_hints
from chatbridge.config.schema import parse
from chatbridge.serve.media_sources import SourceLimits
from chatbridge.serve.openai_api.settings import ServerSettings

NESTED = "sources"  # the settings of fetching media; their flags begin with --fetch-
GROUPS: tuple[tuple[type, str, str], ...] = (
    (ServerSettings, "", "server"),
    (SourceLimits, "fetch_", "media of requests"),
)


def add_server_settings(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting; values are checked together by `server_settings`."""
    for kind, prefix, title in GROUPS:
        group = parser.add_argument_group(title)
        for field in fields(kind):
            if field.name == NESTED:
                continue
            text = field_help(kind)[field.name].replace("%", "%%")
            group.add_argument(
                _flag(prefix + field.name), help=_with_default(text, field.default), **_form(kind, field)
            )


def server_settings(args: argparse.Namespace) -> ServerSettings:
    """The settings of the flags. raises ConfigError with everything that is wrong, by flag"""
    own, fetch = (_given(args, kind, prefix) for kind, prefix, _ in GROUPS)
    try:
        return parse(ServerSettings, own | ({NESTED: fetch} if fetch else {}))
    except ConfigError as error:
        raise ConfigError([replace(one, path=_flag_of(one)) for one in error.problems]) from None


def _given(args: argparse.Namespace, kind: type, prefix: str) -> dict[str, Any]:
    found = {field.name: getattr(args, prefix + field.name) for field in fields(kind) if field.name != NESTED}
    return {name: None if value == "none" else value for name, value in found.items() if value is not None}


def _form(kind: type, field: Any) -> dict[str, Any]:
    hint = type_hints(kind)[field.name]
    hint = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if hint is bool:
        action: Any = argparse.BooleanOptionalAction if field.default else "store_true"
        return {"action": action, "default": None}
    name = {"media_root": "FOLDER", "host": "ADDRESS", "model_name": "NAME"}.get(field.name, "X")
    return {"nargs": "+", "metavar": name} if get_origin(hint) is tuple else {"metavar": name}


def _with_default(text: str, default: Any) -> str:
    if default is None or isinstance(default, bool) or default == ():
        return text
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text} (default: {shown})"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _flag_of(problem: Problem) -> str:
    first, _, rest = problem.path.partition(".")
    return _flag(f"fetch_{rest.partition('.')[0]}" if first == NESTED and rest else first)
