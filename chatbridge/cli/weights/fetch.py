"""`chatbridge weights fetch YAML|URL|REPO`: download with a checksum; an interrupted download resumes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

from chatbridge.cli.arguments import add_options
from chatbridge.cli.weights.fetch_config import fetch_config
from chatbridge.cli.weights.fetch_source import fetch_hub, fetch_url


def main(arguments: Sequence[str] | None = None) -> int:
    """Download everything that a YAML names; or one file from a URL, or a model repository (or one file of it) from the
    Hugging Face hub."""
    parser = argparse.ArgumentParser(prog="chatbridge weights fetch", description=main.__doc__)
    parser.add_argument("source", help="a YAML with a model in it, https://..., or owner/name on the hub")
    parser.add_argument("target", type=Path, nargs="?", help="file for a URL; folder for the hub; none for a YAML")
    parser.add_argument(
        "--dry-run", action="store_true", help="with a YAML: show what would be downloaded, and its size"
    )
    add_options(parser, "model.language.weights=...")
    parser.add_argument("--file", help="one file of the repository instead of all of it")
    parser.add_argument(
        "--only", nargs="+", metavar="PATTERN",
        help="files of the repository to download, e.g. '*.json' '*.txt' '*.fp16.safetensors' of a diffusion pipeline",
    )  # fmt: skip
    parser.add_argument("--revision", help="branch, tag or commit of the repository")
    parser.add_argument("--sha256", help="expected checksum of the file; with a URL or --file")
    given = parser.parse_args(arguments)
    if Path(given.source).suffix in (".yaml", ".yml"):
        if given.target is not None or given.file or given.only or given.revision or given.sha256:
            parser.error("a YAML says itself what goes where; only --dry-run and --options apply to it")
        return fetch_config(Path(given.source), given.options, given.dry_run)
    if given.target is None or given.dry_run or given.options:
        parser.error("a URL or a repository needs a target; --dry-run and --options apply to a YAML")
    if given.only and urlparse(given.source).scheme in ("http", "https"):
        parser.error("--only applies to a repository of the hub, not to one file at an address")
    if urlparse(given.source).scheme in ("http", "https"):
        path = fetch_url(given.source, given.target, given.sha256)
    else:
        path = fetch_hub(given.source, given.target, given.file, given.revision, given.sha256, given.only)
    print(f"{path}: complete" + ("" if given.sha256 is None else ", sha256 verified"))
    return 0
