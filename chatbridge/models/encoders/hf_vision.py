"""Any vision model of transformers: CLIP, SigLIP, DINOv2, ViT, ConvNeXt and so on, from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor

from chatbridge.common.types import Features
from chatbridge.config.constraints import Range
from chatbridge.models.encoders._hf_tower import (
    HFTower,
    HFTowerConfig,
    build_tower,
    features_of,
    reach,
    without_unused,
)
from chatbridge.models.encoders.base import ENCODERS, check_shape, feature_norm
from chatbridge.processors import hf_image as preprocessing
from chatbridge.processors.image_file import Background, color_of

Colors = tuple[float, float, float]


@ENCODERS.register("hf_vision")
class HFVision(HFTower):
    """Every token of a layer, class tokens included: float[M, N, W]. Of CLIP and the like, the half that sees.

    The preprocessing is that of the folder's preprocessor_config.json (size, crop, mean, std, filter), the same in
    training and evaluation.
    """

    modalities = frozenset({"image", "video"})

    @dataclass(frozen=True, kw_only=True)
    class Config(HFTowerConfig):
        image_size: Annotated[int | None, Range(low=1)] = None  # pixels; null: as the folder says
        mean: Colors | None = None  # per channel, of pixels in 0..1; null: as the folder says, else CLIP's
        std: Colors | None = None
        # null: as the folder says; center: the middle is cut out; pad: all of the image, on the background; stretch: to
        # the square
        crop: Literal["center", "pad", "stretch"] | None = None
        background: Annotated[str, Background()] = "white"  # of transparent and padded pixels; none: hidden colors show

        kind = "vision"

        @property
        def side(self) -> int:
            """Pixels. raises ValueError when nothing says how many"""
            said = self.image_size or preprocessing.side_of(preprocessing.read_settings(self.weights))
            side = said or getattr(self.settings, "image_size", None)
            if not isinstance(side, int):
                raise ValueError("the model does not say how large its pictures are; set image_size")
            return side

        def processor(self, modality: str, train: bool, count: int) -> Any:
            from chatbridge.processors.video import VideoProcessor

            settings = preprocessing.read_settings(self.weights)
            image = preprocessing.image_processor(settings, self.side, self.mean, self.std, lean=train)
            image = preprocessing.cropped(image, self.crop, color_of(self.background))
            return image if modality == "image" else VideoProcessor(image=image, num_frames=count)

    config: HFVision.Config

    def __init__(self, config: HFVision.Config) -> None:
        super().__init__()
        self.config = config
        self.side = config.side
        self.reach = reach(config.settings, (3, self.side, self.side), config.layer)
        self.tower = without_unused(build_tower(config.settings), self.reach.unused)
        self.norm = feature_norm(self.width, config.norm)

    def axes(self, modality: str) -> int:
        return 4  # [M, 3, H, W]

    def forward(self, media: Tensor, modality: str = "image") -> Features:
        """
        media    float[M, 3, H, W]   normalised pixels, H = W = image_size
        raises   ValueError for another shape
        """
        check_shape(media, "M, 3, H, W", {1: 3, 2: self.side, 3: self.side})
        dtype = next(self.tower.parameters()).dtype
        return Features(self.norm(features_of(self.tower, media.to(dtype), self.config.layer)))
