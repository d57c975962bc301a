"""Vision models of transformers: CLIP, SigLIP, DINOv2, ViT, ConvNeXt and so on, from a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from torch import Tensor

from chatbridge.common.errors import Problem
from chatbridge.common.types import Features
from chatbridge.config.constraints import Range
from chatbridge.models.component import LoadNotes, State
from chatbridge.models.encoders._clip_names import is_clip_vision, other_reason, tower_names
from chatbridge.models.encoders._hf_tower import (
    HFTower,
    HFTowerConfig,
    build_tower,
    features_of,
    tower_output,
    without_unused,
)
from chatbridge.models.encoders.base import ENCODERS, check_shape, feature_norm
from chatbridge.processors import hf_image as preprocessing
from chatbridge.processors.image_file import Background, color_of

Colors = tuple[float, float, float]
NAFLEX = ("siglip2_vision_model",)  # SigLIP 2 of fixed resolution is a siglip_vision_model


@ENCODERS.register("hf_vision")
class HFVision(HFTower):
    """All tokens of a layer but the first `drop_first`, float[M, N, W]; of CLIP and similar models the vision tower.

    The output of CLIP (`layer: null`) is that of its last block, before the norm of the pooled token.
    Preprocessing follows the folder's preprocessor_config.json (size, crop, mean, std, filter), in training and
    evaluation alike.
    """

    modalities = frozenset({"image", "video"})

    @dataclass(frozen=True, kw_only=True)
    class Config(HFTowerConfig):
        image_size: Annotated[int | None, Range(low=1)] = None  # pixels; null: from the folder
        mean: Colors | None = None  # per channel, of pixels in 0..1; null: from the folder, else CLIP's
        std: Colors | None = None
        # null: from the folder, of one file center; center: crop the middle; pad: the whole image on the background;
        # stretch: to a square
        crop: Literal["center", "pad", "stretch"] | None = None
        # content of a preprocessor_config.json, in place of the folder's; empty: the folder's
        preprocessing: dict[str, Any] = field(default_factory=dict)
        # color of transparent and padded pixels; none: drop transparency, so hidden colors show
        background: Annotated[str, Background()] = "white"
        # tokens at the start to leave out: 1 for the class token of CLIP, ViT and DINOv2 (5 with its registers)
        drop_first: Annotated[int, Range(low=0)] = 0

        kind = "vision"

        def problems(self) -> Iterator[str | Problem]:
            found = list(super().problems())
            yield from found
            if not found and getattr(self.settings, "model_type", None) in NAFLEX:
                name = "weights" if self.weights is not None else "architecture"
                what = f"{self.weights or self.settings.model_type} is a SigLIP 2 of variable resolution (NaFlex)"
                hint = "give one of fixed resolution, for example google/siglip2-base-patch16-224"
                yield Problem(name, f"{what}, which reads patches; hf_vision reads square images", hint=hint)

        @property
        def side(self) -> int:
            """Width and height of the input, pixels. raises ValueError when neither setting nor folder has it"""
            given = self.image_size or preprocessing.side_of(self._read_preprocessing())
            side = given or getattr(self.settings, "image_size", None)
            if not isinstance(side, int):
                raise ValueError("the model's configuration has no image size; set image_size")
            return side

        def _read_preprocessing(self) -> dict[str, Any]:
            return self.preprocessing or preprocessing.read_settings(self.folder)

        def processor(self, modality: str, train: bool, count: int) -> Any:
            from chatbridge.processors.video import VideoProcessor

            settings = self._read_preprocessing()
            image = preprocessing.image_processor(settings, self.side, self.mean, self.std, lean=train)
            crop = self.crop or ("center" if self.weights is not None and self.folder is None else None)
            image = preprocessing.cropped(image, crop, color_of(self.background))
            return image if modality == "image" else VideoProcessor(image=image, num_frames=count)

    config: HFVision.Config

    def __init__(self, config: HFVision.Config) -> None:
        super().__init__()
        self.config = config
        self.side = config.side
        self.output = tower_output(config.settings, (3, self.side, self.side), config.layer)
        if config.drop_first >= self.output.num_tokens:
            raise ValueError(
                f"drop_first: {config.drop_first} leaves no token: an image of {self.side} pixels has "
                f"{self.output.num_tokens} (one per patch, and class tokens); CLIP, ViT and DINOv2 have 1 class token"
            )
        self.tower = without_unused(build_tower(config.settings), self.output.unused)
        self.norm = feature_norm(self.width, config.norm)

    def axes(self, modality: str) -> int:
        return 4  # [M, 3, H, W]

    def num_tokens(self, modality: str) -> int:
        return self.output.num_tokens - self.config.drop_first

    def forward(self, media: Tensor, modality: str = "image") -> Features:
        """The features of images.

        media    float[M, 3, H, W], normalised pixels, H = W = image_size
        returns  x float[M, N, W]
        raises   ValueError for a different shape
        """
        check_shape(media, "M, 3, H, W", {1: 3, 2: self.side, 3: self.side})
        dtype = next(self.tower.parameters()).dtype
        x = features_of(self.tower, media.to(dtype), self.config.layer)
        return Features(self.norm(x[:, self.config.drop_first :]))

    @staticmethod
    def convert(state: State) -> State:
        """Rename the tensors of OpenAI's or open_clip's CLIP; in_proj becomes three. Others stay for `fit`."""
        if not is_clip_vision(state):
            return state
        tower, others = tower_names(state)
        return {f"tower.{name}": value for name, value in tower.items()} | {name: state[name] for name in others}

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Leave out what this encoder has no use for: CLIP's projection, its tower of texts, unused norms."""
        unused = {f"tower.{name}": "no feature depends on it" for name in self.output.unused}
        reasons = {name: unused.get(name) or other_reason(name) for name in state}
        notes.dropped |= {name: reason for name, reason in reasons.items() if reason is not None}
        return self.fit_norm({name: state[name] for name in state if reasons[name] is None}, notes, "norm")
