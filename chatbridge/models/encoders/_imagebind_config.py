"""The settings of ImageBind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from chatbridge.config.constraints import Range, Unit
from chatbridge.models.encoders._imagebind_sizes import (
    AudioSizes,
    DepthSizes,
    ImuSizes,
    TextSizes,
    ThermalSizes,
    VisionSizes,
)
from chatbridge.models.encoders.base import EncoderConfig
from chatbridge.processors.image_file import Background, color_of

Rule = Literal["imagebind", "chatbind"]


@dataclass(frozen=True, kw_only=True)
class ImageBindConfig(EncoderConfig):
    """Sizes of the trunks (default: ImageBind-Huge), and the preprocessing of every modality."""

    norm: bool = False  # add a LayerNorm over the features
    out_width: Annotated[int, Range(low=1)] = 1024  # W, channels of the features of every trunk
    vision: VisionSizes = field(default_factory=VisionSizes)  # of images and video
    audio: AudioSizes = field(default_factory=AudioSizes)
    depth: DepthSizes = field(default_factory=DepthSizes)
    thermal: ThermalSizes = field(default_factory=ThermalSizes)
    imu: ImuSizes = field(default_factory=ImuSizes)
    text: TextSizes = field(default_factory=TextSizes)
    text_trunk: bool = False  # build the text trunk too, for naming by similarity (encode_text)
    # rounding of the centre crop of images: as ImageBind's own transform, or as CLIP's, which ChatBind uses
    image_rule: Rule = "imagebind"
    # where the clips of audio and video start: evenly so that the last one ends with the file (ImageBind), or at
    # i * (duration - 2 s) / clips (the pytorchvideo that ChatBind installs)
    clip_rule: Rule = "imagebind"
    # of audio with several channels: the first alone, as ImageBind, or the mean of all
    channels: Literal["first", "mean"] = "first"
    # of audio whose clips overlap: each clip as recorded, or with the step that the released code leaves in later ones
    clip_overlap: Literal["clean", "released"] = "clean"
    untimed_fps: Annotated[float, Unit("frames/s"), Range(above=0.0)] = 25.0  # of video that is a folder of frames
    background: Annotated[str, Background()] = "white"  # of transparent pixels; none: drop transparency (reference)
    # what files of depth maps hold: distances, distances with SUN RGB-D's rotated bits, or disparities in pixels
    depth_values: Literal["distance", "sunrgbd", "disparity"] = "distance"
    depth_focal_px: Annotated[float, Unit("pixels"), Range(above=0.0)] = 518.86  # of the camera
    depth_baseline_m: Annotated[float, Unit("m"), Range(above=0.0)] = 0.075  # of the sensor; 0.095 for RealSense
    thermal_mean: float = 0.0  # of brightness in 0..1; no statistics of the released weights are published
    thermal_std: Annotated[float, Range(above=0.0)] = 1.0
    imu_seconds: Annotated[float, Unit("s"), Range(above=0.0)] = 5.0  # of a recording, which become imu.length readings

    def processor(self, modality: str, train: bool, count: int) -> Any:
        side, color = self.vision.image_size, color_of(self.background)
        if modality == "image":
            from chatbridge.processors.imagebind_image import imagebind_image

            return imagebind_image(size=side, rule=self.image_rule, lean=train, background=color)
        if modality == "video":
            from chatbridge.processors.imagebind_video import ImageBindVideoProcessor

            return ImageBindVideoProcessor(side, count, self.clip_rule, self.untimed_fps, background=color)
        if modality == "audio":
            from chatbridge.processors.imagebind_audio import ImageBindAudioProcessor

            sizes = self.audio
            return ImageBindAudioProcessor(
                mel_bins=sizes.mel_bins, target_frames=sizes.frames, num_clips=count, clip_rule=self.clip_rule,
                channels=self.channels, overlap=self.clip_overlap,
            )  # fmt: skip
        if modality == "depth":
            from chatbridge.processors.imagebind_depth import ImageBindDepthProcessor

            return ImageBindDepthProcessor(
                self.depth.image_size, self.depth_values, self.depth_focal_px, self.depth_baseline_m
            )
        if modality == "thermal":
            from chatbridge.processors.imagebind_thermal import ImageBindThermalProcessor

            return ImageBindThermalProcessor(
                self.thermal.image_size, self.image_rule, self.thermal_mean, self.thermal_std
            )
        from chatbridge.processors.imagebind_imu import ImageBindImuProcessor

        return ImageBindImuProcessor(self.imu.length, self.imu_seconds)
