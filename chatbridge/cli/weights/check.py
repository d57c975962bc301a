"""`chatbridge weights check CFG`: compare names and shapes of every weights file with the model. Reads headers only."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.cli.arguments import add_model_config
from chatbridge.common.errors import ConfigError
from chatbridge.conversation.tokenizer import TOKENIZER_FILES, Tokenizer
from chatbridge.experiment.build import build_model
from chatbridge.experiment.open import open_model_file
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import Component, LoadNotes, State
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.chatbridge import split, unwrapped
from chatbridge.models.importers.minigpt4 import buffer_reason, is_projection_only
from chatbridge.models.importers.released import is_released_file
from chatbridge.models.language._causal_lm_folder import is_buffer
from chatbridge.models.loading import fitted, mismatches
from chatbridge.models.tensor_headers import read_headers
from chatbridge.models.tokenizer_loading import id_fault, known_already, padding_note


@dataclass
class FileCheck:
    """The comparison of one file with one component."""

    component: str
    path: Path | str
    num_loaded: int = 0
    notes: LoadNotes = field(default_factory=LoadNotes)
    counts: dict[str, int] = field(default_factory=dict)  # missing, unexpected, shape
    problems: list[str] = field(default_factory=list)

    def match(self, wanted: Mapping[str, Tensor], state: State, optional: Collection[str] = ()) -> None:
        """Compare names and shapes; `optional` names may be absent from the file."""
        alike = {name for name in wanted if name in state and wanted[name].shape == state[name].shape}
        self.num_loaded = len(alike)
        self.counts = {
            "missing": len(wanted.keys() - state.keys() - set(optional)),
            "unexpected": len(state.keys() - wanted.keys()),
            "different shape": len((wanted.keys() & state.keys()) - alike),
        }
        self.problems = mismatches(wanted, state, optional)

    def __str__(self) -> str:
        said = [f"loaded {self.num_loaded}", *(f"{what} {count}" for what, count in self.counts.items() if count)]
        said += [f"{what} {len(entries)}" for what, entries in vars(self.notes).items() if entries]
        lines = [f"{'ok' if not self.problems else 'NO':<3} {self.component}: {', '.join(said)}  <- {self.path}"]
        for what, entries in vars(self.notes).items():
            for reason in sorted(set(entries.values())):
                names = [name for name, why in entries.items() if why == reason]
                lines.append(f"      {what}: {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} ({reason})")
        return "\n".join([*lines, *(f"    {line}" for line in self.problems)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the header of every weights file of a YAML with its model. Returns 0 if all fit."""
    parser = argparse.ArgumentParser(prog="chatbridge weights check", description=main.__doc__)
    add_model_config(parser)
    given = parser.parse_args(arguments)
    opened = open_model_file(given.config or given.cfg_path, given.options)
    model = build_model(opened.section(ModelConfig, "model"), on_meta=True).model
    found = list(check_model(model))
    released = opened.node("run").get("init_from")
    if isinstance(released, str) and is_released_file(released):
        found += check_released(model, Path(released))
    for one in found:
        print(one)
    bad = sum(bool(one.problems) for one in found)
    result = f"{bad} do not fit" if bad else "all fit"
    print(f"{len(found)} files, {result}" if found else "the YAML names no file: all weights are random")
    return 1 if bad else 0


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


def check_released(model: ChatModel, path: Path) -> Iterator[FileCheck]:
    """Yield one result per part of the checkpoint that a run starts from."""
    try:
        state, _ = unwrapped(_placeholders(path))
    except ValueError as error:
        yield FileCheck("run.init_from", path, problems=[str(error)])
        return
    routes = model.config.routes
    if is_projection_only(state):
        name = (routes.get("image") or next(iter(routes.values()))).bridge
        kept = {key: value for key, value in state.items() if buffer_reason(key) is None}
        yield compare(f"bridges.{name}", path, model.bridges[name], kept, ("output.",))
        return
    for role, tensors in split(state).items():
        name = _component(model, role)
        if name is None:
            yield FileCheck(role, path, problems=[f"{len(tensors)} tensors of {role}, which this model lacks"])
        else:
            yield compare(name, path, model.get_submodule(name), tensors)


def compare(name: str, path: Path, part: Any, state: State, only: Sequence[str] | None = None) -> FileCheck:
    """Compare tensors with a part as loading does (models.loading.fill), without copying values."""
    found = FileCheck(name, path)
    try:
        state, found.notes = fitted(part, state)
    except ValueError as error:
        found.problems = [str(error)]
        return found
    wanted: Mapping[str, Tensor] = part.state_dict()
    if only is not None:
        prefixes = tuple(only)
        wanted = {key: value for key, value in wanted.items() if key.startswith(prefixes)}
        state = {key: value for key, value in state.items() if key.startswith(prefixes)}
        found.notes = LoadNotes(reshaped={k: v for k, v in found.notes.reshaped.items() if k.startswith(prefixes)})
    found.match(wanted, state, found.notes.kept if only is None else ())
    return found


def _found(name: str, path: Path, part: Component, only: tuple[str, ...] | None) -> FileCheck:
    try:
        return compare(name, path, part, _placeholders(path), only)
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
    try:
        state = _placeholders(folder)
    except ValueError as error:
        return FileCheck("language", folder, problems=[str(error)])
    found = FileCheck("language", folder)
    buffers = [key for key in state if is_buffer(key)]
    found.notes.dropped |= dict.fromkeys(buffers, "buffer computed from the sizes")
    state = {key: value for key, value in state.items() if key not in found.notes.dropped}
    found.match(lm.state_dict(), state, set(getattr(lm, "all_tied_weights_keys", {}) or ()))
    return found


def _tokenizer(model: ChatModel, folder: Path) -> Iterator[FileCheck]:
    """Yield problems only: ids beyond the embeddings, or unreadable files."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return  # weights only
    try:
        tokenizer = Tokenizer.from_pretrained(folder, model.language.num_embeddings, model.config.added_tokens)
    except ConfigError as error:
        yield FileCheck("language (tokenizer)", folder, problems=[error.problems[0].message])
        return
    problems = [fault] if (fault := id_fault(tokenizer, folder)) else []
    problems += [problem.message for problem in known_already(tokenizer, folder)]
    notes = LoadNotes(dropped={"padding id": note} if (note := padding_note(tokenizer)) else {})
    if problems or notes.dropped:
        yield FileCheck("language (tokenizer)", folder, len(tokenizer.written_ids()), notes, problems=problems)


def _component(model: ChatModel, role: str) -> str | None:
    routes = model.config.routes
    if role == "language":
        return "language"
    if role == "bridge":
        return f"bridges.{(routes.get('image') or next(iter(routes.values()))).bridge}"
    return f"encoders.{routes[role].encoder}" if role in routes else None


def _placeholders(path: Path) -> State:
    return {name: header.placeholder() for name, header in read_headers(path).items()}
