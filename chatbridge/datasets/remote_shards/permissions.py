"""Permission for a configuration to run shell commands (`pipe:`) and to open remote files.

A YAML, or the resolved.yaml of a run folder, may come from another person. Its `pipe:` commands run only with explicit
permission: `--allow-pipe` on the command line, or CHATBRIDGE_ALLOW_PIPE=1 in the environment, which ranks and loader
workers inherit. Commands that only display a run (demo, report) open no remote source at all.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.datasets.remote_shards.addresses import PIPE, shown

VARIABLE = "CHATBRIDGE_ALLOW_PIPE"
HOW = f"read them; if they may run on this machine, repeat the command with --allow-pipe, or set {VARIABLE}=1"
DISPLAY_ONLY = "remote sources are not opened by a command that only displays a run"

_num_blocks = 0  # open `no_remote_access` blocks of this process and its threads


def pipe_is_allowed() -> bool:
    """Whether the environment variable permits pipe: commands."""
    return os.environ.get(VARIABLE, "").strip().lower() in ("1", "true", "yes", "on")


def add_allow_pipe(parser: argparse.ArgumentParser) -> None:
    """Add the option --allow-pipe; it sets the environment variable, which child processes inherit."""
    parser.add_argument(
        "--allow-pipe", action=_AllowPipe, nargs=0, help="let pipe: sources of the configuration run their commands"
    )


class _AllowPipe(argparse.Action):
    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option: str | None = None):
        os.environ[VARIABLE] = "1"
        setattr(namespace, self.dest, True)


@contextmanager
def no_remote_access() -> Iterator[None]:
    """Open no remote file and run no command inside this block, whatever else is allowed."""
    global _num_blocks
    _num_blocks += 1
    try:
        yield
    finally:
        _num_blocks -= 1


def refusal(address: str) -> str | None:
    """Why an address may not be opened now; None if it may."""
    if _num_blocks:
        return f"{shown(address)}: {DISPLAY_ONLY}"
    if address.startswith(PIPE) and not pipe_is_allowed():
        return f"{shown(address)}: its command may not run without --allow-pipe or {VARIABLE}=1"
    return None


def refuse_without_remote_access(addresses: Sequence[str]) -> None:
    """raises DataError for remote addresses inside `no_remote_access`"""
    if _num_blocks and addresses:
        raise DataError(f"{shown(addresses[0])}: {DISPLAY_ONLY}")


def commands_of(datasets: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """path -> the shell commands of the source at this path, brace ranges as written."""
    found = {path: tuple(dataset.commands()) for path, dataset in datasets.items()}
    return {path: commands for path, commands in found.items() if commands}


def commands_text(commands: Mapping[str, Sequence[str]]) -> str:
    """The section of a plan that lists every command; empty without any."""
    if not commands:
        return ""
    allowed = "allowed" if pipe_is_allowed() else f"not allowed: the run needs --allow-pipe or {VARIABLE}=1"
    lines = [f"  {path}: {command}" for path, several in commands.items() for command in several]
    return "\n".join([f"shell commands that a run executes ({allowed}); none is executed now", *lines])


def command_problems(commands: Mapping[str, Sequence[str]]) -> list[Problem]:
    """A problem per source whose commands may not run; none if commands are allowed."""
    if pipe_is_allowed():
        return []
    return [Problem(path, f"runs shell commands: {'; '.join(found)}", hint=HOW) for path, found in commands.items()]


def require_permission(datasets: Mapping[str, Any]) -> None:
    """raises ConfigError that lists every command of these sources, unless commands are allowed"""
    if problems := command_problems(commands_of(datasets)):
        raise ConfigError(problems)
