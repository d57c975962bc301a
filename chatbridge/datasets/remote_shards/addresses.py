"""Addresses of remote shards, and patterns of them: https://host/{000..331}.tar, s3://bucket/000.tar, pipe:command."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from chatbridge.common.errors import Problem
from chatbridge.common.extras import how_to_install
from chatbridge.datasets.tars.patterns import expand, expand_braces

PIPE = "pipe:"


@dataclass(frozen=True)
class RemoteShard:
    """One remote tar. samples, bytes, sha256: from its manifest; None if the manifest does not list them."""

    address: str
    samples: int
    bytes: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        return name_of(self.address)


def is_remote(pattern: str) -> bool:
    """Whether a pattern is an address or a command, not a local path."""
    return pattern.startswith(PIPE) or "://" in pattern


def fault_of(address: str) -> str | None:
    """What is wrong with an address; None for a valid one."""
    if address.startswith(PIPE):
        return None if address.removeprefix(PIPE).strip() else "has no command"
    try:
        parts = urlsplit(address)
    except ValueError as error:
        return f"is not a valid address: {error}"
    if not parts.scheme:
        return "has no protocol before ://, such as https or s3"
    return "has no host" if parts.scheme in ("http", "https") and not parts.hostname else None


def shown(address: str) -> str:
    """An address for logs and messages: without the query, which may be a signature, and without a password."""
    if address.startswith(PIPE):
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def name_of(address: str) -> str:
    """The file name of a remote shard; of a command, the last word that ends in .tar."""
    if not address.startswith(PIPE):
        return Path(urlsplit(address).path).name or "shard.tar"
    words = re.findall(r"[^\s'\"/=|;&<>]+\.tar\b", address)
    return words[-1] if words else "shard.tar"


def missing_package(address: str) -> str | None:
    """How to install the package that reads an address; None if nothing is missing."""
    if address.startswith((PIPE, "http://", "https://")):
        return None
    from fsspec import get_filesystem_class
    from fsspec.registry import known_implementations

    protocol = address.partition("://")[0]
    try:
        get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        module = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
        return how_to_install(module) if module and module != "fsspec" else str(error)
    return None


def expand_remote(patterns: Iterable[str]) -> tuple[list[str], list[str]]:
    """The addresses of remote patterns, and what is wrong with the others. Brace ranges are expanded; wildcards are not
    possible."""
    addresses: dict[str, None] = {}
    faults: list[str] = []
    for pattern in patterns:
        if fault := fault_of(pattern):
            faults.append(f"{pattern}: {fault}")
        elif not pattern.startswith(PIPE) and "*" in pattern:
            faults.append(f"{pattern}: remote folders cannot be listed; use a range, as in {{00000..00331}}.tar")
        elif package := missing_package(pattern):
            faults.append(f"{pattern}: cannot be read here; {package}")
        else:
            names, fault = expand_braces(pattern)
            addresses |= dict.fromkeys(names)
            faults += [fault] if fault else []
    return list(addresses), faults


def shard_problems(patterns: Sequence[str]) -> list[Problem]:
    """The problems that `expand` or `expand_remote` finds in the patterns of a Config."""
    remote = [pattern for pattern in patterns if is_remote(pattern)]
    if remote and len(remote) < len(patterns):
        return [Problem("shards", "mixes local and remote shards", hint="use two sources")]
    faults = (expand_remote(remote) if remote else expand(patterns))[1]
    return [Problem("shards", fault, is_absent=not remote) for fault in faults]
