"""A chat over the miniature world: its configuration, its engine, files to attach, and a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatbridge.conversation.messages import Conversation, user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.engine import ChatEngine
from tests.helpers.media_files import image_bytes, tone, write_audio, write_video
from tests.helpers.mini_world import MiniWorld, write_yaml

SHORT = GenerateOptions(max_new_tokens=10)


class ChatWorld:
    """Files and configuration of a chat. Building one takes a second, because it writes a language model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = MiniWorld(folder / "world")
        self.config = self.write("chat.yaml")
        self.files = write_files(folder / "uploads")

    def write(self, name: str, **changes: Any) -> Path:
        """Write an evaluation YAML; keyword arguments replace sections."""
        run = {"output_dir": str(self.folder / "eval"), "device": "cpu"}
        content = {"model": self.world.model(), "run": run, "evaluation": {"tasks": self.world.tasks()}}
        return write_yaml(self.folder / name, {**content, **changes})

    def engine(self) -> ChatEngine:
        return ChatEngine.from_config(self.config)


def color_question(engine: ChatEngine, world: ChatWorld, *names: str) -> Conversation:
    """A question about the color of these files of the world."""
    media = [item for name in names for item in engine.attach(world.files[name]).media]
    return (user(*media, "what color is it ?"),)


def write_files(folder: Path) -> dict[str, Path]:
    """name -> path: image, video (with an audio track), silent_video, audio, and files that cannot be read."""
    folder.mkdir(parents=True)
    files = {"image": folder / "photo.jpg", "truncated": folder / "half.jpg", "words": folder / "notes.txt"}
    files["image"].write_bytes(image_bytes("JPEG"))
    files["truncated"].write_bytes(files["image"].read_bytes()[:-200])
    files["words"].write_text("neither seen nor heard")
    files["video"] = write_video(folder / "clip.mp4", tone_hz=440.0)
    files["silent_video"] = write_video(folder / "silent.mp4")
    files["audio"] = write_audio(folder / "tone.wav", tone(0.4))
    files["empty"] = folder / "empty.wav"
    files["empty"].write_bytes(b"")
    return files
