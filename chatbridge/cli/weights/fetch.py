"""`chatbridge weights fetch URL|REPO`: download with a check sum, and go on where a download broke off."""

from __future__ import annotations

import argparse
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from chatbridge.cli.weights.headers import readable_size
from chatbridge.common.safe_files import file_lock, replace_text
from chatbridge.models.weight_files import check_file

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Download a weights file from a URL, or a model repository (or one file of it) from the Hugging Face hub."""
    parser = argparse.ArgumentParser(prog="chatbridge weights fetch", description=main.__doc__)
    parser.add_argument("source", help="https://..., or owner/name on the hub")
    parser.add_argument("target", type=Path, help="file for a URL; folder for the hub")
    parser.add_argument("--file", help="one file of the repository instead of all of it")
    parser.add_argument("--revision", help="branch, tag or commit of the repository")
    parser.add_argument("--sha256", help="what the file must have; with a URL or --file")
    given = parser.parse_args(arguments)
    if urlparse(given.source).scheme in ("http", "https"):
        path = fetch_url(given.source, given.target, given.sha256)
    else:
        path = fetch_hub(given.source, given.target, given.file, given.revision, given.sha256)
    print(f"{path}: complete" + ("" if given.sha256 is None else ", sha256 as given"))
    return 0


def fetch_url(url: str, target: Path, sha256: str | None = None) -> Path:
    """The file at `url`. A file that broke off goes on where it stopped, if the server can and the file is the same.

    target   a file name, or a folder that gets the file under its own name
    raises   ValueError: no network, no such file, another check sum, not weights (a web page)
    """
    if target.is_dir():
        target = target / unquote(urlparse(url).path.rpartition("/")[2] or "download")
    with file_lock(target):  # a second command for the same file waits, and finds it
        if not target.exists():
            _fetch(url, target, sha256)
            return target
    verify(target, sha256)
    return target


def _fetch(url: str, target: Path, sha256: str | None) -> None:
    part = target.with_name(target.name + ".part")
    _download(url, part, part.with_name(part.name + ".etag"))
    verify(part, sha256, remove=True)
    try:
        check_file(part)
    except ValueError as error:
        part.unlink()
        raise ValueError(f"{url}: {str(error).partition(': ')[2]}") from None
    os.replace(part, target)
    part.with_name(part.name + ".etag").unlink(missing_ok=True)


def verify(path: Path, sha256: str | None, remove: bool = False) -> None:
    """raises   ValueError when the file has another check sum; `remove` deletes it then"""
    if sha256 is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    if digest.hexdigest() != sha256.lower():
        if remove:
            path.unlink()
        raise ValueError(
            f"{path}: sha256 is {digest.hexdigest()}, expected {sha256.lower()}; it is not the file you want"
        )


def fetch_hub(repo: str, target: Path, file: str | None, revision: str | None, sha256: str | None) -> Path:
    """A repository, or one file of it, into a folder; huggingface_hub resumes by itself.

    raises   ValueError: no network, no such repository, no permission
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    if sha256 is not None and file is None:
        raise ValueError("--sha256 is of one file; name it with --file")
    try:
        if file is None:
            return Path(snapshot_download(repo, revision=revision, local_dir=target))
        path = Path(hf_hub_download(repo, file, revision=revision, local_dir=target))
    except Exception as error:  # the hub's own errors, and those of whatever carries its requests
        raise ValueError(f"{repo}: {_refusal(error)}") from None
    verify(path, sha256)
    return path


def _download(url: str, part: Path, etag: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "chatbridge"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if etag.exists():
            headers["If-Range"] = etag.read_text(encoding="utf-8")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            _write(answer, part, etag, have if answer.status == 206 else 0)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # all of it is there already; the check sum says whether it is right
            return
        raise ValueError(f"{url}: the server answered {error.code} ({error.reason})") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ValueError(f"{url}: {_refusal(error)}") from None


def _write(answer: Any, part: Path, etag: Path, have: int) -> None:
    """Append behind `have` bytes, or begin anew.

    raises   ValueError when the connection ends too early; what came stays for the next try
    """
    if answer.headers.get("ETag"):
        replace_text(etag, answer.headers["ETag"])
    expected = answer.headers.get("Content-Length")
    came = 0
    with part.open("ab" if have else "wb") as file:
        while block := answer.read(CHUNK_BYTES):
            file.write(block)
            came += len(block)
    if expected is not None and came < int(expected):
        got, whole = readable_size(have + came), readable_size(have + int(expected))
        raise ValueError(f"{part}: the connection broke off after {got} of {whole}; run the same command to go on")


def _refusal(error: Exception) -> str:
    reason = (str(getattr(error, "reason", "") or error).strip().splitlines() or [type(error).__name__])[0]
    return f"cannot be reached ({reason}). Is there a network? Fetch it elsewhere and write its path into the YAML"
