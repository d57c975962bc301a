"""Train the tiny EVA-ViT and the tiny BEATs on what the media show, and save them as encoder weights.

They stand for eva_vit_g.pth and BEATs_iter3_plus_AS2M.pt: ordinary `eva_vit` and `beats` encoders of a small config,
which the two training stages then keep frozen. Only scenes that are not held out are shown.

Every feature token learns to tell every attribute of its picture or sound, so that a bridge finds them anywhere.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import stream
from chatbridge.config.schema import parse
from chatbridge.models.encoders.beats import BEATs
from chatbridge.models.encoders.eva_vit import EvaViT
from dataset_prep.tiny_world import render, world
from dataset_prep.tiny_world.world import Scene

NUM_SOUNDS = 8000  # fewer are learned by heart
HEARD_AS = {"loud": (0.3, 0.95), "quiet": (0.01, 0.05)}  # wider than the levels that scenes have
Labels = dict[str, list[int]]  # attribute -> index of the value, -100 where it does not apply


class Heads(nn.Module):
    """A linear classifier per attribute, over the mean feature and over one token drawn at random.

    dropout  share of the channels that are hidden while the encoder learns: no attribute hangs on few channels then,
             and what is seen of a new combination reads like what is known
    """

    def __init__(self, width: int, attributes: dict[str, tuple[str, ...]], dropout: float = 0.0):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in attributes.items()})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """x float[M, N, W] -> logits of the mean and logits of one token per item, float[M, values] each."""
        x = self.dropout(x)
        one = x[torch.arange(len(x)), torch.randint(x.shape[1], (len(x),))]
        mean = x.mean(1)
        return ({k: head(mean) for k, head in self.heads.items()}, {k: head(one) for k, head in self.heads.items()})


Draw = Callable[[int], tuple[Tensor, Labels]]  # number of items -> media float[M, ...] and their labels


def train(
    encoder: nn.Module,
    modality: str,
    draw: Draw,
    examined: Draw,
    *,
    steps: int,
    batch: int,
    lr: float,
    dropout: float = 0.0,
) -> dict[str, float]:
    """Train in place on what `draw` gives; returns the accuracy per attribute on 300 items of `examined`."""
    heads = Heads(encoder.width, world.ATTRIBUTES[modality], dropout)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    encoder.train()
    for _ in range(steps):
        media, labels = draw(batch)
        mean, one = heads(encoder(media, modality).x)
        targets = {name: torch.tensor(values) for name, values in labels.items()}
        loss = sum(nn.functional.cross_entropy(logits[k], t) for logits in (mean, one) for k, t in targets.items())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    encoder.eval()
    heads.eval()
    return _accuracy(encoder, heads, *examined(300))


@torch.no_grad()
def _accuracy(encoder: nn.Module, heads: Heads, media: Tensor, labels: Labels) -> dict[str, float]:
    mean, _ = heads(encoder(media).x)
    found = {}
    for name, values in labels.items():
        target = torch.tensor(values)
        found[name] = round(float((mean[name].argmax(-1) == target)[target >= 0].float().mean()), 3)
    return found


def enlarge_init(encoder: nn.Module) -> None:
    """Weights of 1 / sqrt(inputs) and positions as large as the patches: the usual 0.02 is made for widths of 1000."""
    for name, parameter in encoder.named_parameters():
        if "pos_embed" in name or "cls_token" in name:
            nn.init.normal_(parameter, std=0.5)
        elif parameter.ndim == 2 and parameter.shape[0] > 1:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def _warm_cosine(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 40) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def indices(scene: Scene, modality: str) -> dict[str, int]:
    """Label per attribute of `modality`; a video frame has no place and size of its own."""
    named = scene.named
    return {k: values.index(named[k]) if k in named else -100 for k, values in world.ATTRIBUTES[modality].items()}


# ---------------------------------------------------------------- what they are shown


def picture_source(processor: Callable[..., Tensor], seed: int, *, held_out: bool) -> Draw:
    """Batches of pictures, a third of them frames of videos, rendered anew each time: float[M, 3, H, W] and labels."""
    rng = stream(seed, "pictures for the vision encoder", held_out)
    images, videos = (world.all_scenes(modality, held_out=held_out) for modality in ("image", "video"))

    def draw(count: int) -> tuple[Tensor, Labels]:
        media, labels = [], []
        for index in range(count):
            is_frame = index % 3 == 2
            scene = (videos if is_frame else images)[int(rng.integers(len(videos if is_frame else images)))]
            media.append(processor(_jpeg_frame(scene, rng) if is_frame else render.jpeg(scene, rng)))
            labels.append(indices(scene, "image"))
        return torch.stack(media), _by_attribute(labels)

    return draw


def _jpeg_frame(scene: Scene, rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    render.video_frame(scene, int(rng.integers(render.VIDEO_FRAMES)), rng).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def sound_source(processor: Callable[..., Tensor], count: int, seed: int, *, held_out: bool) -> Draw:
    """Batches from `count` rendered sounds: float[M, frames, mel] and labels.

    For training, sounds of any pitch and loudness, also between the named ones (which then have no label): an audio
    encoder has heard more of the world than a caption says.
    """
    rng = stream(seed, "sounds for the audio encoder", held_out)
    scenes = world.all_scenes("audio", held_out=held_out)
    if held_out:
        made = ((render.sound(scene, rng), indices(scene, "audio")) for scene in cycle(scenes))
    else:
        made = _any_sounds(rng)
    features, known = zip(*((processor(torch.from_numpy(samples))[0], each) for samples, each in islice(made, count)))
    media = torch.stack(features)

    def draw(size: int) -> tuple[Tensor, Labels]:
        chosen = rng.integers(count, size=size)
        return media[torch.from_numpy(chosen)], _by_attribute([known[index] for index in chosen])

    return draw


def _any_sounds(rng: np.random.Generator) -> Iterator[tuple[np.ndarray, dict[str, int]]]:
    """Sounds and their labels, -100 for a pitch or a loudness without a name.

    Pitch and loudness never both have a name, so none of these sounds is a scene. Leaving out just the held-out scenes
    would teach that, say, a low hissing siren is always quiet.
    """
    while True:
        kind, background = world.pick(world.SOUNDS, rng), world.pick(world.BACKGROUNDS, rng)
        base_hz, level = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in ((200, 2300), (0.01, 0.95)))
        pitch = _name(base_hz, render.BASE_HZ)
        if pitch and _name(level, render.LEVELS):
            continue
        volume = None if pitch else _name(level, HEARD_AS)
        labels = {"sound": world.SOUNDS.index(kind), "pitch": -100, "volume": -100}
        labels |= {"background": world.BACKGROUNDS.index(background)}
        labels |= {"pitch": world.PITCHES.index(pitch)} if pitch else {}
        labels |= {"volume": world.VOLUMES.index(volume)} if volume else {}
        yield render.sound_of(kind, base_hz, level, background, rng), labels


def _name(value: float, ranges: dict[str, tuple[float, float]]) -> str | None:
    return next((name for name, (low, high) in ranges.items() if low <= value <= high), None)


def _by_attribute(labels: list[dict[str, int]]) -> Labels:
    return {name: [label[name] for label in labels] for name in labels[0]}


# ---------------------------------------------------------------- command


def encoder_sizes(path: Path) -> tuple[EvaViT.Config, BEATs.Config]:
    """The sizes a model YAML gives its encoders, whose weights do not exist yet."""
    from omegaconf import OmegaConf

    model = OmegaConf.to_container(OmegaConf.load(path)["model"])
    nodes = [model["encoders"][name] for name in ("vision", "audio")]
    vision, audio = ({key: value for key, value in node.items() if key not in ("name", "weights")} for node in nodes)
    return parse(EvaViT.Config, vision), parse(BEATs.Config, audio)


def train_vision(config: EvaViT.Config, steps: int, seed: int) -> tuple[EvaViT, dict[str, float]]:
    torch.manual_seed(seed)
    encoder = EvaViT(config)
    enlarge_init(encoder)
    processor = config.processor("image", train=False, count=1)
    shown, examined = (picture_source(processor, seed, held_out=held_out) for held_out in (False, True))
    return encoder, train(encoder, "image", shown, examined, steps=steps, batch=48, lr=2e-3)


def train_audio(config: BEATs.Config, steps: int, seed: int) -> tuple[BEATs, dict[str, float]]:
    torch.manual_seed(seed)
    encoder = BEATs(config)
    enlarge_init(encoder)
    processor = config.processor("audio", train=False, count=1)
    shown = sound_source(processor, NUM_SOUNDS, seed, held_out=False)
    examined = sound_source(processor, 300, seed, held_out=True)
    return encoder, train(encoder, "audio", shown, examined, steps=steps, batch=32, lr=2e-3, dropout=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/tiny"), help="the folder of the tiny world")
    parser.add_argument("--sizes", type=Path, default=Path("configs/models/chatbridge_tiny.yaml"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=tuple(TRAIN), help="train one of the two encoders (default: both)")
    parser.add_argument("--steps", type=int, help="of each encoder (default: " + _usual_steps() + ")")
    arguments = parser.parse_args()
    folder = arguments.root / "encoders"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = dict(zip(TRAIN, encoder_sizes(arguments.sizes), strict=True))
    for name in (arguments.only,) if arguments.only else tuple(TRAIN):
        started, (train_one, steps) = time.monotonic(), TRAIN[name]
        encoder, marks = train_one(sizes[name], arguments.steps or steps, arguments.seed)
        save_file(encoder.state_dict(), folder / f"{name}.safetensors")
        replace_text(folder / f"{name}_examination.json", json.dumps(marks, indent=1))
        print(f"{name}: right {json.dumps(marks)} in {time.monotonic() - started:.0f} s", flush=True)


TRAIN: dict[str, tuple[Callable[..., tuple[nn.Module, dict[str, float]]], int]] = {  # with the usual number of steps
    "vision": (train_vision, 800),
    "audio": (train_audio, 900),
}


def _usual_steps() -> str:
    return ", ".join(f"{name} {steps}" for name, (_, steps) in TRAIN.items())


if __name__ == "__main__":
    main()
