"""ImageBind: one feature in a common space for an image, a video clip, audio, a depth map, a thermal image or IMU
readings (Girdhar et al. 2023; facebookresearch/ImageBind, imagebind_huge.pth: CC-BY-NC-SA 4.0).

Only the trunks that the routes of a model need are built; `text_trunk: true` adds the one for text, which has no route
but names media by similarity (`encode_text`). A feature is not a unit vector for every modality: vision has length 1,
audio 20, depth and IMU 5, thermal 10. Clips are averaged after that, and the mean is not made longer again: a route
with `merge: mean_features` does it, or `merge: mean`, which is equal for a linear bridge.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from chatbridge.common.types import Features
from chatbridge.models.component import LoadNotes, State
from chatbridge.models.encoders._imagebind_checkpoint import is_causal_mask, rename_released
from chatbridge.models.encoders._imagebind_config import ImageBindConfig
from chatbridge.models.encoders._imagebind_sizes import FRAMES
from chatbridge.models.encoders._imagebind_trunks import TRUNKS, Trunk
from chatbridge.models.encoders._position_table import resized_positions
from chatbridge.models.encoders.base import ENCODERS, Encoder, feature_norm

TRUNK_OF = {name: name for name in ("audio", "depth", "thermal", "imu")} | {"image": "vision", "video": "vision"}
AXES = {"image": 4, "video": 5, "audio": 4, "depth": 4, "thermal": 4, "imu": 3}  # of single pieces, M included
SQUARE = ("vision", "depth", "thermal")  # trunks whose positions are a square grid


@ENCODERS.register("imagebind")
class ImageBind(Encoder):
    """One feature per piece, float[M, 1, out_width]."""

    modalities = frozenset(TRUNK_OF)
    fp32_residuals = True

    Config = ImageBindConfig
    config: ImageBindConfig

    def __init__(self, config: ImageBindConfig, modalities: frozenset[str] | None = None) -> None:
        """modalities   whose trunks are built; None: all"""
        super().__init__()
        self.config = config
        wanted = {TRUNK_OF[one] for one in (self.modalities if modalities is None else modalities)}
        wanted |= {"text"} if config.text_trunk else set()
        self.trunks = nn.ModuleDict(
            {name: build(getattr(config, name), config.out_width) for name, build in TRUNKS.items() if name in wanted}
        )
        self.norm = feature_norm(config.out_width, config.norm)

    @classmethod
    def for_routes(cls, config: ImageBindConfig, modalities: frozenset[str]) -> ImageBind:
        return cls(config, modalities)

    @property
    def width(self) -> int:
        return self.config.out_width

    def num_tokens(self, modality: str) -> int:
        return 1

    def axes(self, modality: str) -> int:
        return AXES[modality]

    def trunk(self, modality: str) -> Trunk:
        """The trunk that reads a modality. raises ValueError for one that is not built"""
        name = TRUNK_OF.get(modality, modality)
        if name not in self.trunks:
            built = ", ".join(self.trunks)
            raise ValueError(f"imagebind was built without its {name} trunk, which {modality} needs; it has {built}")
        return cast("Trunk", self.trunks[name])

    def forward(self, media: Tensor, modality: str = "image") -> Features:
        """The features of single pieces.

        media    image float[M, 3, H, W], video clips float[M, 3, frames, H, W], audio clips float[M, 1, mel, frames],
                 depth and thermal float[M, 1, H, W], imu float[M, channels, readings]
        returns  x float[M, 1, W]
        raises   ValueError for a different shape, or a modality whose trunk is not built
        """
        if media.ndim != self.axes(modality):
            raise ValueError(f"{modality}: media has shape {list(media.shape)}, expected {self._expected(modality)}")
        try:
            x = self.trunk(modality)(media)  # [M, W]
        except ValueError as error:
            raise ValueError(f"{modality}: {error}") from None
        return Features(self.norm(x[:, None]))  # [M, 1, W]

    def _expected(self, modality: str) -> str:
        """The shape of pieces of a modality, for messages."""
        one, side = self.config, self.config.vision.image_size
        shapes = {
            "image": (3, side, side), "video": (3, FRAMES, side, side),
            "audio": (1, one.audio.mel_bins, one.audio.frames), "depth": (1, *[one.depth.image_size] * 2),
            "thermal": (1, *[one.thermal.image_size] * 2), "imu": (one.imu.channels, one.imu.length),
        }  # fmt: skip
        return f"[M, {', '.join(map(str, shapes[modality]))}]"

    def encode_text(self, ids: Tensor) -> Tensor:
        """The features of texts, to compare with those of media by their cosine.

        ids      int64[M, L] of CLIP's tokenizer, the end token included
        returns  float[M, W], of the learned length (at most 100)
        raises   ValueError for ids that the trunk cannot read, or without `text_trunk: true`
        """
        if "text" not in self.trunks:
            raise ValueError("this imagebind was built without its text trunk; set text_trunk: true")
        return self.trunks["text"](ids)

    @staticmethod
    def convert(state: State) -> State:
        """Rename released tensors; a file with our names is returned unchanged. Tensors [...] keep their shapes."""
        return rename_released(state)

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Drop trunks that are not built, and resize the positions of square inputs.

        state    our name -> tensor; trunks.vision.positions float[1, 1 + G*G, W]
        returns  the tensors of this encoder
        raises   ValueError for positions that cannot be resized, or a text mask that is not causal
        """
        state = self._of_built_trunks(state, notes)
        mask = state.pop("trunks.text.mask", None)
        if mask is not None:
            if mask.ndim != 2 or not is_causal_mask(mask):
                raise ValueError(f"modality_preprocessors.text.mask {list(mask.shape)} is not a causal mask")
            notes.dropped["trunks.text.mask"] = "the causal mask is computed"
        for name in self.trunks:
            self._fit_positions(name, state, notes)
        return self.fit_norm(state, notes, "norm")

    def _of_built_trunks(self, state: State, notes: LoadNotes) -> State:
        kept: State = {}
        for key, value in state.items():
            name = key.split(".")[1] if key.startswith("trunks.") else ""
            if name in TRUNKS and name not in self.trunks:
                reason = "text_trunk is false" if name == "text" else f"no route needs the {name} trunk"
                notes.dropped[key] = reason
            else:
                kept[key] = value
        return kept

    def _fit_positions(self, trunk: str, state: State, notes: LoadNotes) -> None:
        key, own = f"trunks.{trunk}.positions", cast("Trunk", self.trunks[trunk]).positions
        table = state.get(key)
        if table is None or table.ndim != 3 or table.shape[1] == own.shape[1]:
            return
        grid = getattr(self.config, trunk).grid
        if trunk not in SQUARE:
            size = " x ".join(map(str, grid))
            raise ValueError(
                f"{key} has {table.shape[1]} positions and model.encoders.*.{trunk} describes {own.shape[1]} ({size} "
                "patches): only the positions of square inputs can be resized; use the sizes that the file was "
                "trained with"
            )
        state[key] = resized_positions(table, grid[0])
        notes.reshaped[key] = f"{table.shape[1]} -> {own.shape[1]} positions, bicubic"
