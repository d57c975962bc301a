"""A miniature world for the data commands, with every kind of damage beside what is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import jpeg, mp4, wav, write_json, write_tar


def record(name: str, path: str, modality: str, words: str = "red") -> dict[str, Any]:
    """One line of our own format."""
    asked = [{"type": modality, "path": path}, {"type": "text", "text": "what color is it ?"}]
    return {"id": name, "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": words}]}


def write_damage(folder: Path) -> Path:
    """One file of records, of which "fine" and "fine sound" are sound; returns it."""
    media = {
        "fine.jpg": jpeg(side=32),
        "cut.jpg": jpeg(side=32)[:300],
        "cut2.jpg": jpeg(side=32)[:320],
        "empty.jpg": b"",
        "cut.mp4": mp4(12)[:900],
        "fine.wav": wav(seconds=0.3),
        "short.wav": wav(seconds=0.01),
        "text.wav": b"no sound at all",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in media.items():
        (folder / name).write_bytes(content)
    kinds = {".jpg": "image", ".mp4": "video", ".wav": "audio"}
    lines = [record(name, name, kinds[Path(name).suffix]) for name in media]
    return write_json(folder / "damage.jsonl", [*lines, record("gone", "gone.jpg", "image")])


def write_run(world: MiniWorld, path: Path, sources: dict[str, Any], **model: Any) -> Path:
    """A training over these sources."""
    run = world.experiment(path.parent / "out")
    run["data"]["sources"] = sources
    run["model"]["language"] |= model
    return write_yaml(path, run)


def write_pairs(folder: Path, count: int = 5) -> str:
    members: list[tuple[str, bytes | str]] = [(f"{n}.jpg", jpeg(n * 40, side=24)) for n in range(count)]
    return str(write_tar(folder / "pairs.tar", [*members, *((f"{n}.txt", f"a red {n}") for n in range(count - 1))]))
