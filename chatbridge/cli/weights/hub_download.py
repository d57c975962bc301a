"""Models of the Hugging Face hub: which files of a repository a run reads, and their download into the hub's cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from chatbridge.models.hf_folder import split_id

SETTINGS = (".json", ".txt", ".model", ".jinja", ".yaml")  # sizes, tokenizer, preprocessing, chat template
WHOLE = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)")  # as transformers names the weights
LICENCE = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")


@dataclass(frozen=True)
class Repository:
    """What a run needs of one repository.

    identifier   as the YAML has it: owner/name or owner/name@revision
    commit       that the revision is now
    files        name -> bytes
    missing      bytes of the files that are not in the cache
    """

    identifier: str
    commit: str
    files: dict[str, int]
    missing: int
    licence: str

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


def read_repository(identifier: str) -> Repository:
    """Ask the hub what a repository has; nothing is downloaded.

    raises   ValueError with the next step: no network, no such repository or revision, terms not accepted
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    repo, revision = split_id(identifier)
    try:
        found = HfApi(endpoint=endpoint()).model_info(repo, revision=revision, files_metadata=True, timeout=30)
    except Exception as error:  # errors of the hub, and of its HTTP library
        raise ValueError(_reason(repo, revision, error)) from None
    sizes = {one.rfilename: one.size or 0 for one in found.siblings or ()}
    files = {name: sizes[name] for name in needed_files(sizes)}
    if not any(WHOLE.fullmatch(name) for name in files):
        raise ValueError(
            f"{repo}: has no weights that transformers reads (model.safetensors, pytorch_model.bin); it has "
            f"{', '.join(sorted(sizes)[:6])}"
        )
    commit = found.sha or ""
    absent = [name for name in files if not isinstance(try_to_load_from_cache(repo, name, revision=commit), str)]
    card: Any = found.card_data or {}
    return Repository(identifier, commit, files, sum(files[name] for name in absent), str(card.get("license") or ""))


def needed_files(names: Iterable[str]) -> list[str]:
    """The files at the top of a repository that transformers reads: settings, and the weights in one format.

    Copies in other formats and precisions (bin beside safetensors, onnx, gguf, original/) are left out.
    """
    top = [name for name in names if len(PurePosixPath(name).parts) == 1 and not name.startswith(".")]
    weights = [name for name in top if WHOLE.fullmatch(name)]
    safe = [name for name in weights if name.endswith(".safetensors")]
    chosen = {*(safe or weights)}
    index = "pytorch_model" if safe else "model.safetensors"  # of the format that is left out
    kept = [
        name
        for name in top
        if name in chosen
        or (name.endswith(SETTINGS) and not name.startswith(f"{index}.") and not _is_weights_index(name, safe))
        or name.startswith(LICENCE)
    ]
    return sorted(kept)


def download_repository(wanted: Repository) -> None:
    """Bring the files into the hub's cache; an interrupted download resumes. raises ValueError with the next step"""
    from huggingface_hub import snapshot_download

    repo, revision = split_id(wanted.identifier)
    try:
        snapshot_download(repo, revision=revision, allow_patterns=[*wanted.files], endpoint=endpoint())
    except Exception as error:
        raise ValueError(_reason(repo, revision, error)) from None


def endpoint() -> str | None:
    """Address of the hub or of a mirror, from HF_ENDPOINT."""
    return os.environ.get("HF_ENDPOINT") or None


def total(repositories: Sequence[Repository]) -> int:
    """Bytes that are still to be downloaded."""
    return sum(one.missing for one in repositories)


def _is_weights_index(name: str, safe: Sequence[str]) -> bool:
    """Whether a name is the index of weights in the other format."""
    return name.endswith(".index.json") and (".bin." in name if safe else ".safetensors." in name)


def _reason(repo: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"https://huggingface.co/{repo}"
    if isinstance(error, GatedRepoError):
        return f"{repo}: its terms must be accepted on {page}, then `hf auth login`, or HF_TOKEN with a token of yours"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo}: has no revision {revision!r}; {page}/commits/main lists them"
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo}: the hub has no such model, or it is private: `hf auth login`; check the spelling on {page}"
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{repo}: the hub did not answer as expected ({said}); the same command continues once it does, and "
        f"HF_ENDPOINT names a mirror. Without a network, download {page} elsewhere and write the folder into the YAML"
    )
