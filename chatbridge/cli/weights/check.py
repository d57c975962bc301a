"""`chatbridge weights check CFG`: compare names and shapes of every weights file with the model. Reads headers only."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatbridge.cli.arguments import add_model_config
from chatbridge.cli.weights.check_released import check_base, check_released, check_trained
from chatbridge.cli.weights.file_check import FileCheck, compare, placeholders
from chatbridge.cli.weights.gguf_listing import check_gguf
from chatbridge.common.errors import ConfigError
from chatbridge.common.gguf_kind import is_gguf_name
from chatbridge.config.constraints import missing_path
from chatbridge.config.merge import placed
from chatbridge.conversation.tokenizer import TOKENIZER_FILES, Tokenizer
from chatbridge.experiment.build import build_model
from chatbridge.experiment.open import open_model_file
from chatbridge.experiment.opened import Opened
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import Component, LoadNotes
from chatbridge.models.component_tensors import without_adapters
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.released import is_released_file
from chatbridge.models.language._causal_lm_folder import is_buffer
from chatbridge.models.language._llava_folder import language_settings, without_media
from chatbridge.models.tensor_headers import read_headers
from chatbridge.models.tokenizer_loading import id_fault, known_already, other_than_file, padding_note


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the header of every weights file of a YAML with its model. Returns 0 if all fit."""
    parser = argparse.ArgumentParser(prog="chatbridge weights check", description=main.__doc__)
    add_model_config(parser)
    given = parser.parse_args(arguments)
    opened = open_model_file(given.config or given.cfg_path, given.options)
    model = build_model(_model_settings(opened), on_meta=True).model
    found = list(check_model(model))
    found += check_base(model, model.config.weights) if model.config.weights is not None else []
    released = opened.node("run").get("init_from")
    if isinstance(released, str) and "???" not in released:
        check = check_released if is_released_file(released) else check_trained
        found += check(model, Path(released))
    for one in found:
        print(one)
    bad = sum(bool(one.problems) for one in found)
    result = f"{bad} do not fit" if bad else "all fit"
    print(f"{len(found)} files, {result}" if found else "the YAML names no file: all weights are random")
    return 1 if bad else 0


def _model_settings(opened: Opened[Any]) -> ModelConfig:
    """raises ConfigError with every mistake in `model`, and the file that a run starts from if it is missing too"""
    try:
        return opened.section(ModelConfig, "model")
    except ConfigError as error:
        start = opened.node("run").get("init_from")
        absent = missing_path(start) if isinstance(start, str) and "???" not in start else None
        more = [placed(replace(absent, path="run.init_from"), opened.origins)] if absent is not None else []
        raise ConfigError([*error.problems, *more]) from None


def check_model(model: ChatModel) -> Iterator[FileCheck]:
    """Yield one result per weights file of a part, and those of the language model."""
    parts = {f"{kind}.{name}": part for kind in ("encoders", "bridges") for name, part in getattr(model, kind).items()}
    for name, part in parts.items():
        for path, only in part.files():
            yield _found(name, path, part, only)
        folder = getattr(part.config, "weights", None)
        if not part.files() and folder is not None:
            yield _readable(name, folder)
    folder = model.language.config.weights
    if folder is not None:
        yield _language(model, folder)
    if model.language.tokenizer_folder is not None:
        yield from _tokenizer(model, model.language.tokenizer_folder)


def _found(name: str, path: Path, part: Component, only: tuple[str, ...] | None) -> FileCheck:
    try:
        return compare(name, path, part, placeholders(path, part.names_within), only)
    except ValueError as error:
        return FileCheck(name, path, problems=[str(error)])


def _readable(name: str, folder: Path) -> FileCheck:
    """Check that the files of a folder are complete; transformers or timm compares the names when it loads them."""
    try:
        return FileCheck(f"{name} (names are compared when it is loaded)", folder, len(read_headers(folder)))
    except ValueError as error:
        return FileCheck(name, folder, problems=[str(error)])


def _language(model: ChatModel, folder: Path) -> FileCheck:
    """Compare with the architecture of the folder's config.json; tied weights may be absent."""
    lm: Any = getattr(model.language, "lm", None)
    if lm is None:
        return _readable("language", folder)
    tied = set(getattr(lm, "all_tied_weights_keys", {}) or ())
    if is_gguf_name(folder):
        return check_gguf(folder, without_adapters(lm), tied)
    try:
        state = placeholders(folder)
    except ValueError as error:
        return FileCheck("language", folder, problems=[str(error)])
    found = FileCheck("language", folder)
    if (settings := language_settings(folder)) is not None:
        own = without_media(settings, state)
        found.notes.dropped |= dict.fromkeys(state.keys() - own.keys(), "belongs to the bridge; run.init_from loads it")
        state = own
    buffers = [key for key in state if is_buffer(key)]
    found.notes.dropped |= dict.fromkeys(buffers, "buffer computed from the sizes")
    state = {key: value for key, value in state.items() if key not in found.notes.dropped}
    found.match(without_adapters(lm), state, tied)
    return found


def _tokenizer(model: ChatModel, folder: Path) -> Iterator[FileCheck]:
    """Yield problems only: ids beyond the embeddings, or unreadable files."""
    if not is_gguf_name(folder) and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return  # weights only
    try:
        tokenizer = Tokenizer.from_pretrained(folder, model.language.num_embeddings, model.config.added_tokens)
    except ConfigError as error:
        yield FileCheck("language (tokenizer)", folder, problems=[error.problems[0].message])
        return
    problems = [fault] if (fault := id_fault(tokenizer, folder)) else []
    problems += [problem.message for problem in known_already(tokenizer, folder)]
    problems += [problem.message for problem in other_than_file(tokenizer, model.language)]
    notes = LoadNotes(dropped={"padding id": note} if (note := padding_note(tokenizer)) else {})
    if problems or notes.dropped:
        yield FileCheck("language (tokenizer)", folder, len(tokenizer.written_ids()), notes, problems=problems)
