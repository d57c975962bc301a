"""Example questions for the demo, from the data sets of the evaluation tasks whose files are on this machine.

It opens no remote file and runs no `pipe:` command, since the configuration may come with a run folder from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.common.seeds import stream
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Conversation, media_parts
from chatbridge.datasets.config import SourceChoice
from chatbridge.datasets.remote_shards.permissions import no_remote_access


@dataclass(frozen=True)
class DemoExample:
    """A question with its files, as a user would send it."""

    text: str
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class _Source:
    source: SourceChoice


def find_examples(tasks: Mapping[str, Any], modalities: tuple[str, ...], per_task: int = 2) -> list[DemoExample]:
    """The first questions about distinct media of every task whose data are available; ablations are left out.

    tasks   name -> node of `evaluation.tasks`
    """
    found: list[DemoExample] = []
    for node in tasks.values():
        if isinstance(node, Mapping) and not node.get("drop_media"):
            found += _first(node.get("dataset"), modalities, per_task, {path for one in found for path in one.files})
    return found


def _first(node: Any, modalities: tuple[str, ...], count: int, known: set[Path]) -> list[DemoExample]:
    found: list[DemoExample] = []
    for example in _examples(node, modalities):
        if len(found) == count:
            break
        if not known & set(example.files):
            found.append(example)
            known |= set(example.files)
    return found


def _examples(node: Any, modalities: tuple[str, ...], search: int = 50) -> Iterator[DemoExample]:
    try:
        source = parse(_Source, {"source": node}).source
        with no_remote_access():
            dataset = source.part(source.config, "examples")
    except (ConfigError, DataError):
        return
    for index in range(min(len(dataset), search)):
        try:
            with no_remote_access():
                record = dataset.record(index, stream(0, "examples", index))
        except MediaError:
            continue
        files = files_of(record.conversation)
        if files and all(item.modality in modalities for item in media_parts(record.conversation)):
            yield DemoExample(record.conversation[0].text.strip(), files)


def files_of(conversation: Conversation) -> tuple[Path, ...]:
    """The distinct media files of a conversation; empty if one of its media items is not a file."""
    refs = [item.ref for item in media_parts(conversation)]
    files = [Path(ref) for ref in refs if isinstance(ref, (str, Path)) and Path(ref).is_file()]
    return tuple(dict.fromkeys(files)) if len(files) == len(refs) else ()
