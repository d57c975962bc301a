"""Settings given on the command line: `--options run.max_steps=400 model.trainable='["bridges.*"]'`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.origins import OPTIONS, Origin, join
from chatbridge.config.yaml_io import ambiguous, parse_yaml


def parse_option(option: str) -> tuple[list[str], Any, dict[str, Origin]]:
    """Parse `run.schedule.kind=cosine` into (["run", "schedule", "kind"], "cosine", origins within the value).

    raises   ConfigError if it is not of the form key=value, or the value is not valid YAML
    """
    path, equals, text = option.partition("=")
    path, keys = path.strip(), path.strip().split(".")
    if not equals or not all(keys):
        hint = "write key.inner_key=value without spaces around =, and quote the whole option if the value has spaces"
        key, colon, value = option.partition(":")
        is_colon = colon and not equals and key.strip() and value.strip()
        hint = f"a setting is key=value: {key.strip()}={value.strip()}" if is_colon else hint
        raise ConfigError([Problem("", f"{option!r} is not of the form key=value", OPTIONS, hint=hint)])
    if keys == ["base"]:
        raise ConfigError([Problem("base", "cannot be set here; set it in the file", OPTIONS)])
    try:
        data, entries, problems = parse_yaml(text, OPTIONS)
        if problems:
            raise ConfigError(problems)
    except ConfigError as error:
        hint = "values are read as YAML; quote text with special characters: key='\"a: b\"'"
        raise ConfigError([_at_option(one, path, text, hint) for one in error.problems]) from None
    if glued := list(_glued_keys(data, path)):
        raise ConfigError(glued)
    return keys, data, entries


def _glued_keys(data: Any, path: str) -> Iterator[Problem]:
    """Keys such as `lr:1e-3` in {lr:1e-3}: YAML reads the whole as a key without a value."""
    pairs = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        name, colon, rest = str(key).partition(":")
        if value is None and name and colon and rest:
            hint = f"inside braces YAML needs a space after the colon: {name}: {rest}"
            yield Problem(path, f"{key!r} is read as a key without a value", OPTIONS, hint=hint)
        else:
            yield from _glued_keys(value, join(path, key))


def _at_option(problem: Problem, path: str, text: str, hint: str) -> Problem:
    """Return a problem of an option's value as a problem of the option."""
    if (fault := ambiguous(text.strip())) is not None:
        return Problem(path, fault, OPTIONS, hint=f"""to pass text, quote it twice: {path}='"{text.strip()}"'""")
    if " in YAML 1.1" in problem.message:
        return Problem(path + problem.path, problem.message, OPTIONS, hint=problem.hint)
    return Problem(path, f"the value {text!r} {problem.message}", OPTIONS, hint=hint)


def option_origin(inside: Origin | None) -> Origin:
    """Return the origin of an option: it has no line, but keeps the spelling of its value."""
    return Origin(OPTIONS) if inside is None else Origin(OPTIONS, written=inside.written, key=inside.key)
