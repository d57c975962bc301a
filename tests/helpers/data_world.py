"""Small data for the data commands: valid files and every kind of damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import jpeg, mp4, wav, write_json, write_tar


def record(name: str, path: str, modality: str, answer: str = "red") -> dict[str, Any]:
    """One line of the native format."""
    asked = [{"type": modality, "path": path}, {"type": "text", "text": "what color is it ?"}]
    return {"id": name, "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def write_damage(folder: Path) -> Path:
    """Write a file of records, of which only fine.jpg and fine.wav are valid; returns its path."""
    media = {
        "fine.jpg": jpeg(side=32),
        "cut.jpg": jpeg(side=32)[:300],
        "cut2.jpg": jpeg(side=32)[:320],
        "empty.jpg": b"",
        "cut.mp4": mp4(12)[:900],
        "fine.wav": wav(seconds=0.3),
        "short.wav": wav(seconds=0.01),
        "text.wav": b"not audio",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in media.items():
        (folder / name).write_bytes(content)
    kinds = {".jpg": "image", ".mp4": "video", ".wav": "audio"}
    lines = [record(name, name, kinds[Path(name).suffix]) for name in media]
    return write_json(folder / "damage.jsonl", [*lines, record("gone", "gone.jpg", "image")])


def write_run(world: MiniWorld, path: Path, sources: dict[str, Any], **model: Any) -> Path:
    """Write the YAML of a training run over these sources."""
    run = world.experiment(path.parent / "out")
    run["data"]["sources"] = sources
    run["model"]["language"] |= model
    return write_yaml(path, run)


def write_pairs(folder: Path, count: int = 5) -> str:
    """Write a tar of images, of which the last has no caption; returns its path."""
    members: list[tuple[str, bytes | str]] = [(f"{n}.jpg", jpeg(n * 40, side=24)) for n in range(count)]
    return str(write_tar(folder / "pairs.tar", [*members, *((f"{n}.txt", f"a red {n}") for n in range(count - 1))]))
