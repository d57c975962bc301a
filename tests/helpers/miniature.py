"""A miniature of a public annotation file, and the sample that it must become."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Dataset
from tests.helpers.tiny_media import write_json

FOLDERS = {"ti": ("image",), "tv": ("video",), "ta": ("audio",), "tva": ("video", "audio")}


@dataclass(frozen=True, kw_only=True)
class Miniature:
    """One layout.

    files     name -> content; the first is `annotations`, others are named by their key
    media     the media files of the first sample
    first     (role, text, names of media) of each message of the first sample
    breaks    place of a value in the first file, its replacement, and the message that must follow
    """

    builder: str
    settings: dict[str, Any]
    files: dict[str, Any]
    count: int
    id: str
    first: tuple[tuple[str, str, tuple[str, ...]], ...]
    references: tuple[str, ...]
    breaks: tuple[tuple[Any, ...], Any, str]
    media: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, broken: bool = False) -> dict[str, Any]:
        """The files in `folder`; the node of the source without its name."""
        node = dict(self.settings)
        for number, (key, content) in enumerate(self.files.items()):
            path = folder / (key if "." in key else f"{key}.json")
            if broken and number == 0:
                content = replaced(content, *self.breaks[:2])
            path.write_bytes(encoded(content, path))
            node["annotations" if number == 0 else key.partition(".")[0]] = str(path)
        for kind in FOLDERS.get(node.get("tag", "").split("-")[0], ()):
            node[f"{kind}_folder"] = str(folder / "media")
        for name in self.media:
            (folder / "media" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "media" / name).write_bytes(b"not decoded here")
        (folder / "media").mkdir(exist_ok=True)
        return node

    def open(self, folder: Path, broken: bool = False, **settings: Any) -> Dataset:
        part = BUILDERS.get(self.builder)
        return part(parse(part.Config, {**self.write(folder, broken), **settings}), "miniature")


def encoded(content: Any, path: Path) -> bytes:
    if isinstance(content, str):
        return content.encode()
    if path.suffix == ".jsonl":
        return "".join(json.dumps(record) + "\n" for record in content).encode()
    return json.dumps(content).encode()


def replaced(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with one value replaced, or removed when `value` is `...`."""
    if not place:
        return value
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


def ask(text: str, *media: str) -> tuple[str, str, tuple[str, ...]]:
    return "user", text, media


def reply(text: str) -> tuple[str, str, tuple[str, ...]]:
    return "assistant", text, ()


def prompts(folder: Path, miniature: Miniature) -> dict[str, str]:
    """One prompt, for the tags that draw one."""
    tag = miniature.settings.get("tag", "")
    if not tag.endswith(("-cap", "shortqa")):
        return {}
    prompt = "PROMPT <QUESTION>" if tag.endswith("qa") else "PROMPT"
    return {"prompts": str(write_json(folder / "prompts.json", {tag: [prompt]}))}
