"""Vision models of timm by name: transformers, convolutional networks and hybrids."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from chatbridge.common.errors import Problem, nearest
from chatbridge.common.types import Features
from chatbridge.config.constraints import Exists, Range
from chatbridge.models.component import LoadNotes, State
from chatbridge.models.encoders.base import ENCODERS, Encoder, EncoderConfig, check_shape, feature_norm
from chatbridge.processors.image_file import Background, color_of

Colors = tuple[float, float, float]


@ENCODERS.register("timm_vision")
class TimmVision(Encoder):
    """The output of `forward_features` as tokens, float[M, N, W]; a feature map is flattened row by row.

    Size, mean, std, crop and filter are those of timm's data configuration for these weights (`model: name.tag`).
    """

    modalities = frozenset({"image", "video"})

    @dataclass(frozen=True, kw_only=True)
    class Config(EncoderConfig):
        model: str  # timm's name, best with the tag of the weights: vit_base_patch16_clip_224.openai
        weights: Annotated[Path | None, Exists("file")] = None  # model.safetensors or .pth of that model
        random: bool = False  # random weights instead of a file
        architecture: dict[str, Any] = field(default_factory=dict)  # sizes that replace the model's own; random weights
        image_size: Annotated[int | None, Range(low=1)] = None  # pixels; null: from timm
        mean: Colors | None = None  # per channel, of pixels in 0..1; null: from timm
        std: Colors | None = None
        # center: resize and crop as timm does; pad: the whole image on the background; stretch: to a square
        crop: Literal["center", "pad", "stretch"] = "center"
        # color of transparent and padded pixels; none: drop transparency, so hidden colors show
        background: Annotated[str, Background()] = "white"
        norm: bool = False  # add a LayerNorm over the features

        def problems(self) -> Iterator[Problem]:
            import timm

            name = self.model.partition(".")[0]
            if not timm.is_model(name):
                message = f"timm has no model {name!r}"
                yield Problem("model", message, nearest=nearest(name, timm.list_models()))
            elif self.weights is None and not self.random and not self.architecture:
                yield Problem("weights", f"is missing: {_where(self.model)}", hint="or random: true for random weights")

        @property
        def data(self) -> dict[str, Any]:
            """timm's data configuration: input_size, mean, std, crop_pct, interpolation."""
            from timm.data.config import resolve_data_config

            return resolve_data_config(pretrained_cfg=_released(self.model))

        @property
        def side(self) -> int:
            """Width and height of the input, pixels."""
            return self.image_size or self.architecture.get("img_size") or self.data["input_size"][-1]

        def processor(self, modality: str, train: bool, count: int) -> Any:
            from chatbridge.processors.hf_image import FolderImageProcessor
            from chatbridge.processors.video import VideoProcessor

            data = self.data
            mean, std = self.mean or data["mean"], self.std or data["std"]
            edge = int(self.side / data["crop_pct"]) if self.crop == "center" else None
            image = FolderImageProcessor(
                self.side,
                mean,
                std,
                edge=edge,
                resample=data["interpolation"],
                lean=train,
                nearest=True,
                pads=self.crop == "pad",
                background=color_of(self.background),
            )
            return image if modality == "image" else VideoProcessor(image=image, num_frames=count)

    config: TimmVision.Config

    def __init__(self, config: TimmVision.Config) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):
            x = _tokens(_empty(config).eval(), torch.empty(1, 3, config.side, config.side))
        self._num_tokens, self._width = x.shape[1:]
        self.tower: Any = _empty(config)
        self.norm = feature_norm(self._width, config.norm)

    @property
    def width(self) -> int:
        return self._width

    def num_tokens(self, modality: str) -> int:
        return self._num_tokens

    def axes(self, modality: str) -> int:
        return 4  # [M, 3, H, W]

    def forward(self, media: Tensor, modality: str = "image") -> Features:
        """The features of images.

        media    float[M, 3, H, W], normalised pixels, H = W = image_size
        returns  x float[M, N, W]
        raises   ValueError for a different shape
        """
        side = self.config.side
        check_shape(media, "M, 3, H, W", {1: 3, 2: side, 3: side})
        return Features(self.norm(_tokens(self.tower, media.to(next(self.tower.parameters()).dtype))))

    @staticmethod
    def convert(state: State) -> State:
        """Put `tower.` before timm's names; tensors [...] of a file with our names are returned unchanged."""
        if any(key.startswith("tower.") for key in state):
            return state
        return {f"tower.{key}": value for key, value in state.items()}

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Apply timm's own checkpoint filter (renames, resized position embeddings), then drop classifiers.

        state    our name -> tensor [...]
        returns  the tensors of the tower and the norm
        """
        inner = {key[6:]: value for key, value in state.items() if key.startswith("tower.")}
        outer = {key: value for key, value in state.items() if not key.startswith("tower.")}
        adapt = getattr(sys.modules[type(self.tower).__module__], "checkpoint_filter_fn", None)
        if adapt is not None:
            before = {key: tuple(value.shape) for key, value in inner.items()}
            inner = adapt(inner, self.tower)
            for key, value in inner.items():
                if before.get(key, tuple(value.shape)) != tuple(value.shape):
                    notes.reshaped[f"tower.{key}"] = "by timm, to the image size"
        wanted = self.tower.state_dict()
        heads = tuple({f"{name.partition('.')[0]}." for name in _classifiers(self.tower)})
        for key in [key for key in inner if key not in wanted and key.startswith(heads)]:
            inner.pop(key)
            notes.dropped[f"tower.{key}"] = "after the features"
        return self.fit_norm({**outer, **{f"tower.{key}": value for key, value in inner.items()}}, notes, "last norm")

    def reset_buffers(self) -> None:
        for module in self.tower.modules():
            fill = getattr(module, "init_non_persistent_buffers", None)
            if fill is not None:
                fill()


def _empty(config: TimmVision.Config) -> Any:
    """A model of timm with random weights and without a classifier. raises ValueError when timm cannot build it"""
    import timm

    sized = {"img_size": config.image_size} if config.image_size is not None else {}
    name = config.model.partition(".")[0]
    for more in (sized, {}) if sized else ({},):  # convolutional networks have no img_size
        try:
            tower: Any = timm.create_model(name, pretrained=False, num_classes=0, **{**config.architecture, **more})
            return _without_head(tower)
        except TypeError as error:
            if not more or "img_size" not in str(error):
                raise ValueError(f"timm cannot build {config.model}: {error}") from None
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ValueError(f"timm cannot build {config.model}: {error}") from None
    raise AssertionError("the last attempt has no img_size")


def _without_head(tower: Any) -> Any:
    """The model without modules after `forward_features`: norms of pooled features and pools with weights."""
    for name in ("fc_norm", "attn_pool"):
        if getattr(tower, name, None) is not None:
            setattr(tower, name, torch.nn.Identity() if name == "fc_norm" else None)
    head = getattr(tower, "head", None)
    if isinstance(head, torch.nn.Module) and any(True for _ in head.parameters()):
        tower.head = torch.nn.Identity()
    return tower


def _tokens(tower: Any, media: Tensor) -> Tensor:
    """float[M, N, W]"""
    x = tower.forward_features(media)
    if x.ndim == 4:
        rows_first = getattr(tower, "output_fmt", "NCHW") == "NHWC"
        x = x.flatten(1, 2) if rows_first else x.flatten(2).transpose(1, 2)  # [M, N, W]
    return x


def _classifiers(tower: Any) -> tuple[str, ...]:
    named = (tower.pretrained_cfg or {}).get("classifier") or ()
    return ("head", "fc", "classifier", "fc_norm", "attn_pool", *((named,) if isinstance(named, str) else named))


def _released(model: str) -> dict[str, Any]:
    import timm

    found = timm.get_pretrained_cfg(model, allow_unregistered=True)
    return found.to_dict() if found is not None else {}


def _where(model: str) -> str:
    """The file to provide, for a message."""
    released = _released(model)
    if not released.get("hf_hub_id"):
        address = released.get("url") or "a checkpoint of it"
        return f"nothing is downloaded; set it to the path of {address}"
    name = released["hf_hub_id"].removesuffix("/") if not released["hf_hub_id"].endswith("timm/") else f"timm/{model}"
    return f"nothing is downloaded; set it to the path of model.safetensors of huggingface.co/{name}"
