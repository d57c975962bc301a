"""Download one file from a URL, or a repository of the Hugging Face hub into a folder, with a checksum and resume."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from chatbridge.common.safe_files import file_lock
from chatbridge.datasets.remote_shards import download
from chatbridge.datasets.remote_shards.open_stream import FetchError
from chatbridge.models.weight_files import check_file

TRIES = 3  # without progress
OFFLINE = "download it elsewhere and write its path into the YAML"


def fetch_url(url: str, target: Path, sha256: str | None = None) -> Path:
    """Download the file at `url` and return its path. An interrupted download resumes if the server supports ranges and
    the file is unchanged.

    target   a file name, or a folder that gets the file under its own name
    raises   ValueError: no network, no such file, wrong checksum, not weights (a web page)
    """
    if target.is_dir():
        target = target / unquote(urlparse(url).path.rpartition("/")[2] or "download")
    with file_lock(target):  # a second command for the same file waits, and finds it complete
        if not target.exists():
            _download(url, target, sha256)
            return target
    verify(target, sha256)
    return target


def verify(path: Path, sha256: str | None) -> None:
    """Raise ValueError if the file has another checksum than `sha256` (None: any)."""
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise ValueError(f"{path}: sha256 is {found}, expected {sha256.lower()}; check the address and the checksum")


def fetch_hub(
    repo: str,
    target: Path,
    file: str | None,
    revision: str | None,
    sha256: str | None,
    only: Sequence[str] | None = None,
) -> Path:
    """Download a repository, or one file of it, into a folder; huggingface_hub resumes interrupted downloads.

    only     patterns of the files to download; None: all

    raises   ValueError: no network, no such repository, no permission, wrong checksum
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    if only is not None and file is not None:
        raise ValueError("--only and --file both choose files; keep one")
    if sha256 is not None and file is None:
        raise ValueError("--sha256 applies to one file; name it with --file")
    try:
        if file is None:
            return Path(
                snapshot_download(
                    repo, revision=revision, local_dir=target, allow_patterns=None if only is None else [*only]
                )
            )
        path = Path(hf_hub_download(repo, file, revision=revision, local_dir=target))
    except Exception as error:  # errors of the hub, and of its HTTP library
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{repo}: cannot be downloaded ({reason}); without a network, {OFFLINE}") from None
    verify(path, sha256)
    return path


def _download(url: str, target: Path, sha256: str | None) -> None:
    """Download to a .part file, which is kept after an interruption and removed if its content is wrong."""
    part = target.with_name(target.name + ".part")
    try:
        download.fetch(url, part, tries=TRIES)
    except FetchError as error:
        resume = "run the same command to resume, or " if part.exists() else ""
        raise ValueError(str(error) if error.is_final else f"{error}; {resume}{OFFLINE}") from None
    try:
        verify(part, sha256)
        check_file(part)
    except ValueError as error:
        part.unlink()
        raise ValueError(f"{url}: {str(error).partition(': ')[2]}") from None
    os.replace(part, target)
