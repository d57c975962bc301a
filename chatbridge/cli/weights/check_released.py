"""Compare the checkpoint that a run starts from, a released one or that of another run, with the parts of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from chatbridge.cli.weights.file_check import FileCheck, compare, placeholders
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.checkpoint_tensors import trained_shapes
from chatbridge.models.checkpoints import find_checkpoint
from chatbridge.models.component import State
from chatbridge.models.component_tensors import by_component, under_base_names, under_own_names
from chatbridge.models.importers.chatbind import matched as matched_chatbind
from chatbridge.models.importers.chatbind_names import is_chatbind
from chatbridge.models.importers.chatbridge import split, unwrapped
from chatbridge.models.importers.flamingo import matched as matched_flamingo
from chatbridge.models.importers.flamingo_names import is_flamingo
from chatbridge.models.importers.matched_file import MatchedFile
from chatbridge.models.importers.minigpt4 import buffer_reason, is_projection_only
from chatbridge.models.importers.released import base_tensors
from chatbridge.models.importers.textbind import matched as matched_textbind
from chatbridge.models.importers.textbind_names import is_textbind

Match = Callable[[ChatModel, State, Path], MatchedFile]


def check_base(model: ChatModel, path: Path) -> Iterator[FileCheck]:
    """Yield one result per part that model.weights fills."""
    try:
        state = base_tensors(path, placeholders)
    except ValueError as error:
        yield FileCheck("model.weights", path, problems=[str(error)])
        return
    yield from _flamingo(model, path, state, is_base=True)


def check_released(model: ChatModel, path: Path) -> Iterator[FileCheck]:
    """Yield one result per part of the checkpoint that a run starts from."""
    try:
        state = placeholders(path)
    except ValueError as error:
        yield FileCheck("run.init_from", path, problems=[str(error)])
        return
    if is_flamingo(state):
        yield from _flamingo(model, path, state, is_base=False)
        return
    if is_chatbind(state):
        yield from _matched(model, path, state, matched_chatbind)
        return
    if is_textbind(state):
        yield from _matched(model, path, state, matched_textbind)
        return
    state, _ = unwrapped(state)
    if is_projection_only(state):
        name = model.config.image_route.bridge
        kept = {key: value for key, value in state.items() if buffer_reason(key) is None}
        yield compare(f"bridges.{name}", path, model.bridges[name], kept, ("output.",))
        return
    for role, tensors in split(state).items():
        name = _component(model, role)
        if name is None:
            yield FileCheck(role, path, problems=[f"{len(tensors)} tensors of {role}, which this model lacks"])
        else:
            yield compare(name, path, model.get_submodule(name), tensors)


def check_trained(model: ChatModel, path: Path) -> Iterator[FileCheck]:
    """Yield the result for the checkpoint of a run that a run starts from: tensors that are not there or do not fit."""
    try:
        checkpoint = find_checkpoint(path)
        state = under_own_names(model, trained_shapes(checkpoint))
    except ValueError as error:
        yield FileCheck("run.init_from", path, problems=[str(error)])
        return
    own = model.state_dict()
    found = FileCheck("run.init_from", checkpoint)
    found.match({name: own[name] for name in state if name in own}, state)
    yield found


def _flamingo(model: ChatModel, path: Path, state: State, is_base: bool) -> Iterator[FileCheck]:
    """Yield a result per part that a file of OpenFlamingo or Multimodal-GPT fills, adapters by themselves."""
    try:
        found = matched_flamingo(model, state, path, is_base)
    except ValueError as error:
        yield FileCheck("model.weights" if is_base else "run.init_from", path, problems=[str(error)])
        return
    for part, names in by_component(under_base_names(model, found.taken)).items():
        yield FileCheck(part, path, len(names))


def _matched(model: ChatModel, path: Path, state: State, match: Match) -> Iterator[FileCheck]:
    """Yield a result per part that a file of ChatBind or TextBind fills."""
    try:
        found = match(model, state, path)
    except ValueError as error:
        yield FileCheck("run.init_from", path, problems=[str(error)])
        return
    yield compare(f"bridges.{found.bridge}", path, model.bridges[found.bridge], found.tensors, found.only)
    for part in ("added_tokens", "language"):
        if names := [name for name in found.taken if name.startswith(f"{part}.")]:
            yield FileCheck(part, path, len(names))


def _component(model: ChatModel, role: str) -> str | None:
    routes = model.config.routes
    if role == "language":
        return "language"
    if role == "bridge":
        return f"bridges.{model.config.image_route.bridge}"
    return f"encoders.{routes[role].encoder}" if role in routes else None
