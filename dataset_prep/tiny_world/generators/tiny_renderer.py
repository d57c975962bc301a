"""Draws the scene that a caption names: what a diffusion model is to TextBind, without weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from chatbridge.common.seeds import stream
from chatbridge.models.generators import GENERATORS, Generator, GeneratorConfig
from dataset_prep.tiny_world import render_visual, world
from dataset_prep.tiny_world.world import Scene

NEUTRAL = (128, 128, 128)  # the whole of an image whose caption cannot be read; no scene has so bright a background
FILLERS = frozenset(["a", "and", "at", "is", "it", "the", "there"])  # words of captions that name no value


@GENERATORS.register("tiny_renderer")
class TinyRenderer(Generator):
    @dataclass(frozen=True, kw_only=True)
    class Config(GeneratorConfig):
        """No settings: caption and seed decide everything."""

    config: Config

    def render(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        """uint8[3, 64, 64] each; position, tint and noise vary with the seed. A caption that cannot be read is gray."""
        return [_drawn(caption, seed) for caption, seed in zip(captions, seeds, strict=True)]


def read_caption(caption: str) -> Scene | None:
    """The scene that a caption names; None unless it names one value of every attribute, in words of captions only."""
    words = re.findall(r"[^\s,.:]+", caption.lower())
    attributes = world.ATTRIBUTES["image"]
    values = [sorted(set(words) & set(options)) for options in attributes.values()]
    known = FILLERS.union(*attributes.values())
    if not known.issuperset(words) or any(len(found) != 1 for found in values):
        return None
    return Scene("image", tuple(found[0] for found in values))


def _drawn(caption: str, seed: int) -> Tensor:
    scene = read_caption(caption)
    if scene is None:
        image = Image.new("RGB", (render_visual.IMAGE_PX, render_visual.IMAGE_PX), NEUTRAL)
    else:
        image = render_visual.image(scene, stream(seed, f"tiny renderer {caption}"))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
