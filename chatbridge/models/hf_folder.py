"""Hugging Face model folders: ids of the local cache, checks, and models read from a folder.

`weights: owner/name` or `owner/name@revision` means the copy that `chatbridge weights fetch` or `hf download` put into
the local cache; nothing is downloaded here. A folder of that path has priority. The id is replaced by the folder of one
revision, so resolved.yaml and checkpoints record which revision was used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from chatbridge.common.errors import Problem, nearest
from chatbridge.common.file_kind import head_of, other_kind
from chatbridge.common.gguf_kind import SUFFIX
from chatbridge.config.constraints import missing_path
from chatbridge.models.tensor_headers import INDEX, deepspeed_hint
from chatbridge.models.weight_files import PICKLED, prefixes_of

# keys of config.json that transformers 5 reads and has no attribute for
FORMER_KEYS = ("rope_theta", "rope_scaling", "rotary_pct", "partial_rotary_factor", "torch_dtype")
MISSPELLED = 0.85  # similarity of a key to a known one; settings of another family are less alike
MARKS = ("config.json", "model_index.json")  # of a model, of a pipeline of diffusers
_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def resolve_cached_ids(config: Any, *names: str) -> None:
    """Replace cached ids in the fields `names` by their folders; for `__post_init__` of a frozen Config."""
    for name in names:
        object.__setattr__(config, name, cached_folder(getattr(config, name)))


def cached_folder(weights: Path | None) -> Path | None:
    """The folder of an id that is in the cache (of its revision, or of `main`); any other value is unchanged."""
    if weights is None or weights.exists() or not is_id(weights):
        return weights
    from huggingface_hub import try_to_load_from_cache

    repo, revision = split_id(weights.as_posix())
    for name in MARKS:  # not snapshot_download, which refuses a copy without the files that nobody needs
        try:
            found = try_to_load_from_cache(repo, name, revision=revision)
        except (OSError, ValueError):  # not a name of the hub; `folder_problems` reports it
            return weights
        if isinstance(found, str):
            return Path(found).parent
    return weights


def folder_problems(name: str, folder: Path | None) -> Iterator[Problem]:
    """Problems of the setting `name`, which holds a Hugging Face model folder or a cached id."""
    if folder is None:
        return
    missing = missing_path(folder, "folder")
    if missing is None:
        if not (folder / "config.json").is_file():
            yield Problem(name, f"{folder} has no config.json, so it is not a Hugging Face model folder")
        elif (what := other_kind(head_of(folder / "config.json"), folder / "config.json")) is not None:
            yield Problem(name, f"{folder / 'config.json'} {what}")
        elif hint := without_weights(folder):
            yield Problem(name, f"{folder} has no weights{hint}")
    elif is_id(folder) and not folder.parent.is_dir():
        fetch = f"python -m chatbridge weights fetch {split_id(folder.as_posix())[0]} FOLDER"
        message = f"there is no folder {folder}, and no model of that id in the Hugging Face cache"
        hint = (
            "nothing is downloaded automatically; `python -m chatbridge weights fetch YAML` brings all that a YAML "
            f"names, or run {fetch}, then give FOLDER here"
        )
        yield Problem(name, message, hint=hint, is_absent=True)
    else:
        hint = "nothing is downloaded: put the folder of the model there, as `hf download` or save_pretrained writes it"
        yield replace(missing, path=name, hint=missing.hint or hint)


def weights_problems(name: str, path: Path | None) -> Iterator[Problem]:
    """Problems of the setting `name`, which holds a weights file, an index of shards, a model folder or a cached id."""
    if path is None or path.is_file():
        return
    is_folder = path.is_dir() or (is_id(path) and path.suffix not in (*PICKLED, ".safetensors"))
    if is_folder:
        yield from folder_problems(name, path)
    elif (missing := missing_path(path, "file")) is not None:
        yield replace(missing, path=name)


def without_weights(folder: Path) -> str:
    """The next step for a folder of parts of DeepSpeed that are not joined; "" for every other folder."""
    is_empty = not any(any(folder.glob(f"*{ending}")) for ending in (".safetensors", ".bin", INDEX))
    return deepspeed_hint(folder) if is_empty else ""


def architecture_problems(architecture: Mapping[str, Any], model_type: str) -> Iterator[Problem]:
    """Problems of sizes for a configuration of transformers, which ignores a key that it does not know.

    A key is a mistake when a setting of this type is spelled much like it; others may be of remote code.
    """
    from transformers import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        guess = nearest(model_type, CONFIG_MAPPING)
        yield Problem("architecture.model_type", f"transformers has no model_type {model_type!r}", nearest=guess)
        return
    kind = CONFIG_MAPPING[model_type]
    known = {*kind().to_dict(), *kind.attribute_map, *FORMER_KEYS}
    for key in sorted(architecture.keys() - known):
        if guess := get_close_matches(str(key), known, n=1, cutoff=MISSPELLED):
            yield Problem(f"architecture.{key}", f"is not a setting of {model_type}", nearest=guess[0])


def said(error: Exception) -> str:
    """The reason that transformers gives, in one line."""
    cause = getattr(error, "__cause__", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def is_id(path: Path) -> bool:
    """Whether a path has the form owner/name or owner/name@revision."""
    return _ID.fullmatch(path.as_posix()) is not None


def names_hub_model(path: Path) -> bool:
    """Whether a setting is an id of the hub rather than a file or folder that is absent: `weights/eva.pth` is none."""
    is_file = path.suffix in (*PICKLED, ".safetensors", SUFFIX)
    return is_id(path) and not is_file and not path.exists() and not path.parent.is_dir()


def split_id(identifier: str) -> tuple[str, str | None]:
    """owner/name, and the revision (a commit, tag or branch) after @; None: the newest. raises ValueError"""
    found = _ID.fullmatch(identifier)
    if found is None:
        raise ValueError(f"{identifier!r} is no model of the hub; expected owner/name or owner/name@revision")
    return found[1], found[2]


def read_folder(kind: Any, folder: Path, **settings: Any) -> tuple[Any, dict[str, list[str]], str]:
    """The model, tensor names by kind (missing, unexpected, mismatched), and the removed prefix ("" for none).

    A prefix that a wrapper put before all names of the files is removed where that makes more of them fit.
    kind     a class with `from_pretrained`
    raises   the errors of transformers and safetensors
    """
    model, found = _read(kind, folder, settings)
    for prefix in prefixes_of(found["unexpected"]) if found["missing"] else ():
        again = {f"^{re.escape(prefix)}": ""}
        other, rest = _read(kind, folder, {**settings, "key_mapping": again})
        if len(rest["missing"]) < len(found["missing"]):
            return other, rest, prefix
    return model, found, ""


def removed(prefix: str) -> str:
    """The removed prefix as the end of a log line."""
    return f", prefix {prefix!r} of all names removed" if prefix else ""


def _read(kind: Any, folder: Path, settings: dict[str, Any]) -> tuple[Any, dict[str, list[str]]]:
    model, info = kind.from_pretrained(str(folder), local_files_only=True, output_loading_info=True, **settings)
    return model, {
        one: sorted(map(str, info.get(f"{one}_keys") or ())) for one in ("missing", "mismatched", "unexpected")
    }


# The vocabulary size is not compared: revisions of a model differ by added tokens
COMPARED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def other_sizes(path: Path, expected: Mapping[str, Any]) -> Iterator[Problem]:
    """A problem for each size of a config.json that differs from the expected one.

    A file that cannot be read is reported when it is used.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for key in COMPARED:
        if isinstance(found, dict) and key in found and key in expected and found[key] != expected[key]:
            message = f"{path} has {key} {found[key]}, this configuration is for {expected[key]} (architecture.{key})"
            hint = "give the folder of a model of that size, or choose another file of configs/models"
            yield Problem("weights", message, hint=hint)
