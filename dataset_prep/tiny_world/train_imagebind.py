"""Train the tiny ImageBind of configs/models/chatbind_tiny.yaml, and write the questions of its evaluation.

    python -m dataset_prep.tiny_world.train_imagebind

The vision trunk learns to classify images, in the role of CLIP's captions, and is frozen. The audio trunk then learns
to be closest to the image that goes with it (InfoNCE, as ImageBind): `binding.py` says which one. It sees no label, and
no waveform whose pitch and loudness both have a name, so no scene of the world. The examination classifies held-out
audio with the classifiers of images. After `make quickstart`, or `dataset_prep.tiny_world.write_files`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import stream
from chatbridge.config.schema import parse
from chatbridge.models.encoders.imagebind import ImageBind
from dataset_prep.common import arguments
from dataset_prep.tiny_world import binding, render_audio, render_visual, world
from dataset_prep.tiny_world.encoder_data import NO_LABEL, any_audio, image_batches
from dataset_prep.tiny_world.train_encoders import enlarge_init, warm_cosine

MODEL = Path("configs/models/chatbind_tiny.yaml")
NUM_IMAGES, NUM_WAVEFORMS = 4000, 4000  # rendered once
NUM_EXAMINED = 300
IMAGES_PER_SCENE = 3  # rendered once for the pairs
TEMPERATURE = 0.05  # of InfoNCE
NOT_SIZES = ("name", "weights", "norm")  # of the encoder's node; the norm after it is the model's, not the file's
VISION_STEPS, AUDIO_STEPS = 500, 500


class Classifiers(nn.Module):
    """A linear classifier per attribute of images, on a unit vector."""

    def __init__(self, width: int):
        super().__init__()
        named = world.ATTRIBUTES["image"]
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in named.items()})
        self.scale = math.sqrt(width)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """float[M, W] of any length -> attribute -> logits float[M, values]"""
        x = self.scale * F.normalize(x, dim=-1)
        return {name: head(x) for name, head in self.heads.items()}


def train_vision(encoder: ImageBind, seed: int, steps: int, batch: int = 48) -> Classifiers:
    """Train the vision trunk in place; returns the classifiers of its features."""
    rng, classifiers = stream(seed, "order of images"), Classifiers(encoder.width)
    media, labels = image_batches(_processor(encoder, "image"), seed, held_out=False)(NUM_IMAGES)
    targets = {name: torch.tensor(values) for name, values in labels.items()}

    def loss() -> Tensor:
        chosen = torch.from_numpy(rng.integers(len(media), size=batch))
        logits = classifiers(encoder(media[chosen], "image").x[:, 0])
        return sum((F.cross_entropy(logits[k], v[chosen]) for k, v in targets.items()), torch.zeros(()))

    optimize([*encoder.trunks["vision"].parameters(), *classifiers.parameters()], loss, steps)
    return classifiers.requires_grad_(False)


def train_audio(encoder: ImageBind, seed: int, steps: int, batch: int = 48) -> None:
    """Train the audio trunk in place, towards the features of the images that go with the audio."""
    rng = stream(seed, "pairs of audio and images")
    scenes = world.all_scenes("image", held_out=False)
    seen = image_features(encoder, scenes, rng)
    heard, values = zip(*islice(_audio(encoder, rng), NUM_WAVEFORMS), strict=True)
    clips, known = torch.stack(heard), {}
    fitting = [known.setdefault(tuple(one.items()), binding.partners(one, scenes)) for one in values]

    def loss() -> Tensor:
        chosen = rng.integers(len(clips), size=batch)
        pairs = torch.tensor([fitting[index][int(rng.integers(len(fitting[index])))] for index in chosen])
        images = seen[pairs, torch.from_numpy(rng.integers(IMAGES_PER_SCENE, size=batch))]
        return info_nce(encoder(clips[torch.from_numpy(chosen)], "audio").x[:, 0], images)

    optimize(list(encoder.trunks["audio"].parameters()), loss, steps)


def info_nce(audio: Tensor, images: Tensor) -> Tensor:
    """The loss of naming the partner of each row among all rows of the other side, both ways.

    audio, images   float[M, W]; row n of one goes with row n of the other
    """
    logits = F.normalize(audio, dim=-1) @ F.normalize(images, dim=-1).T / TEMPERATURE
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def image_features(encoder: ImageBind, scenes: tuple[world.Scene, ...], rng: np.random.Generator) -> Tensor:
    """Renderings of every scene as features float[scenes, IMAGES_PER_SCENE, W]."""
    processor = _processor(encoder, "image")
    encoder.eval()
    rows = [
        encoder(torch.stack([processor(render_visual.jpeg(scene, rng)) for _ in range(IMAGES_PER_SCENE)]), "image").x
        for scene in scenes
    ]
    return torch.stack(rows)[:, :, 0]


def _audio(encoder: ImageBind, rng: np.random.Generator) -> Iterator[tuple[Tensor, dict[str, str]]]:
    """Clips float[1, mel, frames] and their named values, without end."""
    processor = _processor(encoder, "audio")
    for samples, labels in any_audio(rng):
        named = {k: world.ATTRIBUTES["audio"][k][v] for k, v in labels.items() if v != NO_LABEL}
        yield processor(torch.from_numpy(samples))[0], named


def _processor(encoder: ImageBind, modality: str) -> Any:
    """Of one piece, float[1, mel, frames] in a list of one for audio."""
    return encoder.config.processor(modality, train=False, count=1)


def optimize(parameters: list[nn.Parameter], loss: Callable[[], Tensor], steps: int, lr: float = 2e-3) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def examine(encoder: ImageBind, classifiers: Classifiers, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy of the classifiers of images on held-out images and on held-out audio, by attribute."""
    encoder.eval()
    media, labels = image_batches(_processor(encoder, "image"), seed, held_out=True)(NUM_EXAMINED)
    rng, processor = stream(seed, "examination of audio"), _processor(encoder, "audio")
    heard = [world.pick(world.all_scenes("audio", held_out=True), rng) for _ in range(NUM_EXAMINED)]
    clips = torch.stack([processor(torch.from_numpy(render_audio.waveform(scene, rng)))[0] for scene in heard])
    seen = [binding.seen_values(scene.named) for scene in heard]
    expected = {name: [world.ATTRIBUTES["image"][name].index(one[name]) for one in seen] for name in binding.BOUND}
    return {
        "image": _accuracy(classifiers(encoder(media, "image").x[:, 0]), labels),
        "audio": _accuracy(classifiers(encoder(clips, "audio").x[:, 0]), expected),
    }


def _accuracy(logits: dict[str, Tensor], labels: dict[str, list[int]]) -> dict[str, float]:
    found = {}
    for name, values in labels.items():
        target = torch.tensor(values)
        found[name] = round(float((logits[name].argmax(-1) == target)[target != NO_LABEL].float().mean()), 3)
    return found


def enlarge(encoder: ImageBind) -> None:
    """Initial values for this width: those of the other tiny encoders, also for stems, positions and class tokens."""
    enlarge_init(encoder)
    for name, parameter in encoder.named_parameters():
        if name.endswith((".positions", ".class_token")):
            nn.init.normal_(parameter, std=0.5)
        elif name.endswith(".stem.weight"):
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def encoder_of(path: Path) -> ImageBind:
    """The untrained encoder with the sizes of a model YAML. raises DataError when it has no encoder of this name"""
    node = OmegaConf.select(OmegaConf.load(path), "model.encoders.imagebind")
    if node is None:
        raise DataError(f"{path}: has no model.encoders.imagebind; name the YAML of a model with it, such as {MODEL}")
    sizes = {key: value for key, value in OmegaConf.to_container(node).items() if key not in NOT_SIZES}
    return ImageBind(parse(ImageBind.Config, sizes), frozenset({"image", "audio"}))


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_prep.tiny_world.train_imagebind",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=Path("data/tiny"), help="folder of the tiny world")
    parser.add_argument("--sizes", type=arguments.existing_file, default=MODEL, help=f"model YAML (default: {MODEL})")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--vision-steps", type=arguments.positive, default=VISION_STEPS)
    parser.add_argument("--audio-steps", type=arguments.positive, default=AUDIO_STEPS)
    asked = parser.parse_args(given)
    count, started = binding.write_questions(asked.root, asked.seed), time.monotonic()
    torch.manual_seed(asked.seed)
    encoder = encoder_of(asked.sizes)
    enlarge(encoder)
    print(f"imagebind: images, {asked.vision_steps} steps; then audio, {asked.audio_steps}", flush=True)
    classifiers = train_vision(encoder, asked.seed, asked.vision_steps)
    print(f"imagebind: images are done after {time.monotonic() - started:.0f} s", flush=True)
    train_audio(encoder, asked.seed, asked.audio_steps)
    accuracy = examine(encoder, classifiers, asked.seed)
    folder = asked.root / "encoders"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(encoder.state_dict(), folder / "imagebind.safetensors")
    replace_text(folder / "imagebind_examination.json", json.dumps(accuracy, indent=1))
    print(f"imagebind: {count} questions, accuracy {json.dumps(accuracy)} in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    arguments.run(main)
