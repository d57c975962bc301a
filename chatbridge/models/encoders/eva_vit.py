"""EVA-ViT: the vision transformer of EVA-CLIP as released by BLIP-2 (`eva_vit_g.pth`), with timm's blocks.

Source: salesforce/LAVIS: lavis/models/eva_vit.py (create_eva_vit_g). Differences from timm's defaults: no rotary
position embedding, no layer scale, no final norm; the norm after the last block is BLIP-2's `ln_vision`. Weights are
read in the names of LAVIS, of transformers' Blip2VisionModel (also in a folder of the whole BLIP-2), or in ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from timm.models.eva import Eva
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from chatbridge.common.errors import Problem
from chatbridge.common.types import Features
from chatbridge.config.constraints import Exists, Range
from chatbridge.models.component import LoadNotes, State
from chatbridge.models.encoders._blip2_vision_names import (
    KEY_BIAS,
    from_huggingface,
    from_lavis,
    is_huggingface,
    other_part,
)
from chatbridge.models.encoders._eva_attention import choose_attention_by_device
from chatbridge.models.encoders._position_table import resized_positions
from chatbridge.models.encoders.base import ENCODERS, Encoder, EncoderConfig, check_shape, feature_norm
from chatbridge.models.hf_folder import resolve_cached_ids, weights_problems
from chatbridge.processors.image_file import Background, color_of

MEAN = (0.48145466, 0.4578275, 0.40821073)
CACHE_BYTES = 2 << 20  # of a core
STD = (0.26862954, 0.26130258, 0.27577711)


class EvaSizes(NamedTuple):
    """Sizes of an EVA-ViT: channels, blocks, heads, and hidden channels of the MLP as a factor of the width."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float


PRESETS = {"g": EvaSizes(width=1408, depth=39, heads=16, mlp_ratio=4.3637)}


@ENCODERS.register("eva_vit")
class EvaViT(Encoder):
    """The class token (if enabled) and patch tokens of the last block, float[M, 1 + grid^2, W]."""

    modalities = frozenset({"image", "video"})
    fp32_residuals = True

    @dataclass(frozen=True, kw_only=True)
    class Config(EncoderConfig):
        # released file or one of ours; or a whole BLIP-2 of the Hugging Face hub, of which only this part is read: its
        # folder, the index of its shards, or owner/name in the local cache. null: random weights
        weights: Path | None = None
        size: Literal["g"] = "g"  # preset for those of the four sizes below that are not given
        width: int | None = None  # channels
        depth: int | None = None  # blocks
        heads: int | None = None
        mlp_ratio: float | None = None
        image_size: int = 224  # pixels; the position embeddings of a file are resized to it
        patch_size: int = 14  # pixels
        # how training resizes images to a square: bilinear on the tensor (ChatBridge), or as in evaluation, with
        # Pillow's bicubic filter (MiniGPT-4)
        train_resize: Literal["bilinear", "bicubic"] = "bilinear"
        background: Annotated[str, Background()] = "white"  # of transparent pixels; none: drop transparency (reference)
        class_token: bool = True  # false: only the patch tokens are used (MiniGPT-4 with Llama-2)
        norm_weights: Annotated[Path | None, Exists("file")] = (
            None  # file that holds ln_vision.*, e.g. blip2_pretrained_flant5xxl.pth
        )
        # added to the variance by the norms within blocks: 1e-6 in LAVIS, 1e-5 in transformers of 2023 (TextBind)
        eps: Annotated[float, Range(above=0)] = 1e-6
        norm_eps: Annotated[float, Range(above=0)] = 1e-5  # the same of the norm over the features, ln_vision

        def __post_init__(self) -> None:
            resolve_cached_ids(self, "weights")

        @property
        def shape(self) -> EvaSizes:
            """The preset with the sizes that are given."""
            own = {name: getattr(self, name) for name in EvaSizes._fields}
            return PRESETS[self.size]._replace(**{name: value for name, value in own.items() if value is not None})

        @property
        def grid(self) -> int:
            """Patches per side."""
            return self.image_size // self.patch_size

        def problems(self) -> Iterator[Problem]:
            yield from weights_problems("weights", self.weights)
            if self.image_size % self.patch_size:
                yield Problem("image_size", f"{self.image_size} is not a multiple of patch_size {self.patch_size}")
            if self.shape.width % self.shape.heads:
                yield Problem("heads", f"width {self.shape.width} does not divide into {self.shape.heads} heads")

        def processor(self, modality: str, train: bool, count: int) -> Any:
            from chatbridge.processors.image import ImageProcessor
            from chatbridge.processors.video import VideoProcessor

            bilinear = train and self.train_resize == "bilinear"
            image = ImageProcessor(
                size=self.image_size, mean=MEAN, std=STD, train=bilinear, lean=train,
                background=color_of(self.background),
            )  # fmt: skip
            return image if modality == "image" else VideoProcessor(image=image, num_frames=count)

    config: EvaViT.Config

    def __init__(self, config: EvaViT.Config) -> None:
        super().__init__()
        self.config = config
        self.vit = _headless_eva(config)
        self.norm = feature_norm(config.shape.width, config.norm, config.norm_eps)

    @property
    def width(self) -> int:
        return self.config.shape.width

    def num_tokens(self, modality: str) -> int:
        return self.config.grid**2 + self.config.class_token

    def axes(self, modality: str) -> int:
        return 4  # [M, 3, H, W]

    def forward(self, media: Tensor, modality: str = "image") -> Features:
        """The features of images.

        media    float[M, 3, H, W], normalised pixels, H = W = image_size
        returns  x float[M, N, W], N = grid^2, plus 1 with the class token
        raises   ValueError for a different shape
        """
        check_shape(media, "M, 3, H, W", {1: 3, 2: self.config.image_size, 3: self.config.image_size})
        media = media.to(self.vit.patch_embed.proj.weight.dtype)
        found = [self.vit.forward_features(part) for part in media.split(self._images_at_once(media))]
        x = torch.cat(found) if len(found) > 1 else found[0]  # [M, 1 + grid^2, W]
        return Features(self.norm(x if self.config.class_token else x[:, 1:]))

    def _images_at_once(self, media: Tensor) -> int:
        """On a CPU in fp32, as many images as fit the processor's cache with their widest layer; otherwise all.

        Six blocks of width 256 take 230 ms for eight images two at a time, and 260 ms all together (one thread). In
        bf16 larger products make up for it. A plan's fake tensors have no cache to fit: all, or it takes minutes.
        """
        if (
            is_fake(media)
            or media.device.type != "cpu"
            or media.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
        ):
            return max(1, len(media))
        shape = self.config.shape
        return max(1, CACHE_BYTES // int(4 * (self.config.grid**2 + 1) * shape.width * shape.mlp_ratio))

    @staticmethod
    def names_within(names: Iterable[str]) -> list[str]:
        return [name for name in names if other_part(name) is None]

    @staticmethod
    def convert(state: State) -> State:
        """Put `vit.` before released names and rename ln_vision to norm; names of transformers become ours too, and a
        file with our names is returned unchanged.

        state    name -> tensor [...]
        raises   ValueError for a vision model of CLIP
        """
        if is_huggingface(state):
            return from_huggingface(state)
        if any(key.startswith("vit.") for key in state):
            return state
        return from_lavis(state)

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Drop unused tensors of the released file (later blocks, head) and resize the position embeddings.

        state    our name -> tensor; vit.pos_embed float[1, 1 + G*G, W]
        returns  the tensors of this encoder; vit.pos_embed float[1, 1 + grid^2, W]
        raises   ValueError for a file with other parts of a model alone
        """
        others = list(state)
        state = self._without_surplus(state, notes)
        if others and not state:
            raise ValueError(
                f"it has no tensor of a vision transformer, only those of other parts, such as {others[0]}"
            )
        table = state.get("vit.pos_embed")
        if table is not None and table.shape[1] != self.config.grid**2 + 1:
            state["vit.pos_embed"] = resized_positions(table, self.config.grid)
            notes.reshaped["vit.pos_embed"] = f"{table.shape[1]} -> {self.config.grid**2 + 1} positions, bicubic"
        return self.fit_norm(state, notes, "ln_vision")

    def _without_surplus(self, state: State, notes: LoadNotes) -> State:
        kept: State = {}
        for key, value in state.items():
            if KEY_BIAS.fullmatch(key) and (value.is_meta or not value.any()):
                continue  # of BLIP-2: the zeros between the biases of queries and values
            reason = self._surplus(key)
            if reason is None:
                kept[key] = value
            else:
                notes.dropped[key] = reason
        return kept

    def _surplus(self, key: str) -> str | None:
        if KEY_BIAS.fullmatch(key):
            return "a bias of keys has no effect: it adds the same to all scores of a query"
        if (reason := other_part(key)) is not None:
            return reason
        if key.startswith(("vit.norm.", "vit.fc_norm.", "vit.head.")):
            return "the features are taken before the final norm and the head"
        number = key.removeprefix("vit.blocks.").split(".")[0]
        if key.startswith("vit.blocks.") and number == str(len(self.vit.blocks)):
            return "the features are taken one block before the end"
        return None

    def files(self) -> list[tuple[Path, tuple[str, ...] | None]]:
        norm = self.config.norm_weights
        return super().files() + ([] if norm is None else [(norm, ("norm.",))])

    def reset_buffers(self) -> None:
        for block in self.vit.blocks:
            cast("Any", block).attn.init_non_persistent_buffers()


def _headless_eva(config: EvaViT.Config) -> Eva:
    shape = config.shape
    vit = Eva(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=shape.mlp_ratio,
        norm_layer=partial(nn.LayerNorm, eps=config.eps),
        num_classes=0,
        global_pool="",
        use_rot_pos_emb=False,
        init_values=None,
        use_post_transformer_norm=False,
        use_fc_norm=False,
    )
    choose_attention_by_device(vit)
    return vit
