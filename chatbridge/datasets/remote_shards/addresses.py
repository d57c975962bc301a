"""Addresses of remote files: https://host/000.tar, s3://bucket/000.tar, pipe:command."""

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
    """One remote tar. samples, bytes, sha256: what its manifest says; None where it says nothing."""

    address: str
    samples: int
    bytes: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        return name_of(self.address)


def is_remote(pattern: str) -> bool:
    return pattern.startswith(PIPE) or "://" in pattern


def fault_of(address: str) -> str | None:
    """What is missing in an address, None when nothing is."""
    if address.startswith(PIPE):
        return None if address.removeprefix(PIPE).strip() else "names no command"
    try:
        parts = urlsplit(address)
    except ValueError as error:
        return f"is no address: {error}"
    if not parts.scheme:
        return "has no protocol before ://, such as https or s3"
    return "names no host" if parts.scheme in ("http", "https") and not parts.hostname else None


def shown(address: str) -> str:
    """An address without what must not stand in a log: the signature behind the question mark, a password."""
    if address.startswith(PIPE):
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def name_of(address: str) -> str:
    """The file name of a remote shard; of a command, the last word that ends like a tar."""
    if not address.startswith(PIPE):
        return Path(urlsplit(address).path).name or "shard.tar"
    words = re.findall(r"[^\s'\"/=|;&<>]+\.tar\b", address)
    return words[-1] if words else "shard.tar"


def missing_package(address: str) -> str | None:
    """What has to be installed before an address can be read; None when nothing has to be."""
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
    """The addresses of some remote patterns, and what is wrong with them; brace ranges alone can be written out."""
    addresses: dict[str, None] = {}
    faults: list[str] = []
    for pattern in patterns:
        if fault := fault_of(pattern):
            faults.append(f"{pattern}: {fault}")
        elif not pattern.startswith(PIPE) and "*" in pattern:
            faults.append(
                f"{pattern}: remote folders cannot be listed; write the range out, as in {{00000..00331}}.tar"
            )
        elif package := missing_package(pattern):
            faults.append(f"{pattern}: cannot be read here; {package}")
        else:
            names, fault = expand_braces(pattern)
            addresses |= dict.fromkeys(names)
            faults += [fault] if fault else []
    return list(addresses), faults


def shard_problems(patterns: Sequence[str]) -> list[Problem]:
    """The faults of `expand` or `expand_remote` for a Config."""
    remote = [pattern for pattern in patterns if is_remote(pattern)]
    if remote and len(remote) < len(patterns):
        return [Problem("shards", "has local files and remote ones", hint="make two sources of them")]
    return [Problem("shards", fault) for fault in (expand_remote(remote) if remote else expand(patterns))[1]]
