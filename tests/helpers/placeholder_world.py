"""A folder in which every shipped YAML can be opened: the tiny world with few files, and placeholders.

Placeholders are empty files for weights and data that a YAML names, and a small config.json for a language model. They
are sufficient for everything up to the meta device.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import transformers
import yaml
from safetensors.torch import save_file

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.merge import load
from chatbridge.config.registry import add_plugins, plugin_names
from chatbridge.config.schema import parse
from chatbridge.experiment.roots import REGISTRIES
from chatbridge.models.checkpoint_manifest import FORMAT, WEIGHTS, write_manifest
from dataset_prep.tiny_world import write_textbind
from dataset_prep.tiny_world.binding import write_questions
from dataset_prep.tiny_world.write_files import write_world
from dataset_prep.tiny_world.write_text import write_text
from tests.helpers.mini_world import write_language_model

REPOSITORY = Path(__file__).parents[2]
OPEN = "is still ???"
NOT_CACHED = "Hugging Face cache"
ABSENT = re.compile(  # "there is no file PATH" or "PATH does not exist"
    r"(?P<no>there is no (?:file or folder|file|folder)? ?)?(?P<path>\S+?)(?(no)| does not exist)(?:[;,\s]|$)"
)
T = TypeVar("T")


def write_placeholder_world(folder: Path) -> Path:
    """Write the files that `make quickstart` prepares, fewer and untrained; configs are links to the repository."""
    for name in ("configs", "train_configs", "eval_configs", "Makefile"):
        (folder / name).symlink_to(REPOSITORY / name)
    write_world(folder / "data/tiny", seed=7, scale=0.01)
    write_language_model(folder / "data/tiny/language")
    shutil.copytree(folder / "data/tiny/language", folder / "data/tiny/language_mmgpt")
    write_text(folder / "data/tiny", seed=7, counts=(30, 15, 6))
    (folder / "data/tiny/encoders").mkdir()
    write_questions(folder / "data/tiny", seed=7)
    write_textbind.write_conversations(folder / "data/tiny", seed=7, count=12)
    write_textbind.write_questions(folder / "data/tiny", seed=7, count=1)
    for name in ("vision", "audio", "imagebind"):
        (folder / "data/tiny/encoders" / f"{name}.safetensors").touch()
    for path in [*folder.glob("train_configs/*tiny*.yaml"), *folder.glob("eval_configs/*tiny*.yaml")]:
        if run := yaml.safe_load(path.read_text())["run"].get("init_from"):
            write_placeholder_run(folder / run)
    (folder / "runs/tiny/eval").mkdir(parents=True, exist_ok=True)
    write_small_stamps(folder / "data/stamps")
    return folder


def write_small_stamps(folder: Path) -> None:
    """Small weights of the kinds that the stamps run reads, without a feature cache."""
    from tests.helpers.gguf_files import small_llama, write_llama

    language = folder / "weights/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    language.parent.mkdir(parents=True)
    write_llama(language, small_llama())
    ears = folder / "weights/whisper_tiny_en"
    sizes = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    transformers.WhisperConfig(
        **sizes, decoder_layers=1, decoder_attention_heads=2, max_source_positions=1500
    ).save_pretrained(ears)
    transformers.WhisperFeatureExtractor().save_pretrained(ears)


def write_placeholder_run(run: Path) -> None:
    """A checkpoint without tensors and without settings to compare with; a training may begin in the same folder."""
    run.mkdir(parents=True, exist_ok=True)
    save_file({}, run / WEIGHTS)
    write_manifest(run, {"format": FORMAT, "step": 1, "components": {}})


def parse_with_placeholders(kind: type[T], path: Path) -> T:
    """A file as `kind`, with placeholders for ??? and missing files in the current folder; its plugins are added.

    raises   ConfigError with the problems that placeholders do not solve
    """
    mapping, origins = load(path)
    add_plugins(REGISTRIES, plugin_names(mapping))
    mapping.get("data", {}).pop("feature_cache", None)  # `chatbridge cache` makes it, from the real weights
    for _ in range(20):  # a value that replaces ??? is checked in the next round
        try:
            return parse(kind, mapping, origins)
        except ConfigError as error:
            solved = [
                stand_in(mapping, problem, Path("placeholders", path.stem)) for problem in error.problems
            ]  # all of them, not up to the first
            if not all(solved):
                raise
            last = error
    raise AssertionError(f"{path}: placeholders do not solve all problems: {last}")


def stand_in(mapping: dict[str, Any], problem: Problem, folder: Path) -> bool:
    """Set a value or write a missing file; returns False for a different problem."""
    if OPEN in problem.message:
        is_optional = "or null" in problem.message and not _needs_a_folder(mapping, problem.path)
        _set(mapping, problem.path, None if is_optional else str(folder / problem.path.replace(".", "/")))
        return True
    if problem.message.startswith("all weights are 0") and folder.name.endswith("_val"):  # a run adds other sources
        _set(mapping, f"data.sources.{folder.name}.weight", 1.0)
        return True
    if NOT_CACHED in problem.message:  # an id of the Hub: a folder for the language model, random encoders
        name = str(_get(mapping, problem.path)).replace("/", "_")
        _set(mapping, problem.path, f"{folder.parent}/hub/{name}" if problem.path == "model.language.weights" else None)
        return True
    found = ABSENT.search(problem.message)
    if found is None:
        return False
    path = Path(found["path"].replace("*", "0"))
    assert not path.is_absolute(), f"{problem.path} names {path}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if problem.path.endswith(".shards"):  # one tar instead of thousands
        _set(mapping, problem.path, str(path))
    if "there is no folder" in problem.message or problem.path == "run.init_from":  # a run writes there
        path.mkdir(exist_ok=True)  # several sources may name one
    else:
        path.touch()
    if ".language." in f".{problem.path}":
        write_language_config(path, mapping["model"]["language"].get("architecture"))
    if ".generator." in problem.path:
        (path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return True


def _needs_a_folder(mapping: Mapping[str, Any], path: str) -> bool:
    """Whether the sizes of a language model are only in its weights."""
    return path == "model.language.weights" and not mapping["model"]["language"].get("architecture")


def write_language_config(path: Path, architecture: Mapping[str, Any] | None) -> None:
    """Write the config.json of a language model with the sizes of the YAML, or small ones."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    path.is_dir() or path.unlink()
    path.mkdir(exist_ok=True)
    content = {"model_type": "llama", "vocab_size": 100, **sizes, **(architecture or {})}
    (path / "config.json").write_text(json.dumps(content))


def _get(mapping: Mapping[str, Any], path: str) -> Any:
    for key in path.split("."):
        mapping = mapping[key]
    return mapping


def _set(mapping: dict[str, Any], path: str, value: str | float | None) -> None:
    *above, last = path.split(".")
    for key in above:
        mapping = mapping[key]
    mapping[last] = value


def write_yaml_text(folder: Path, name: str, text: str) -> Path:
    """Write a YAML of the README; raises AssertionError if it is not a mapping."""
    path = folder / name
    assert isinstance(yaml.safe_load(text), Mapping), name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
