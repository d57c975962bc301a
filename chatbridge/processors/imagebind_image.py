"""Images as ImageBind reads them: bicubic to the short side, center crop, the statistics of CLIP."""

from __future__ import annotations

from typing import Literal

from chatbridge.processors.hf_image import FolderImageProcessor
from chatbridge.processors.image import CLIP_MEAN, CLIP_STD
from chatbridge.processors.image_file import WHITE, Color

ImageRule = Literal["imagebind", "chatbind"]


def imagebind_image(
    size: int = 224, rule: ImageRule = "imagebind", lean: bool = False, background: Color | None = WHITE
) -> FolderImageProcessor:
    """The processor of images, the same in training and evaluation: float[3, size, size], or uint8 of lean ones.

    size        side of the square and short side before the crop, in pixels
    rule        where the crop begins when the long side leaves an odd margin: "imagebind" at the nearest whole pixel
                (torchvision), "chatbind" rounded down (CLIP's image processor of transformers, which ChatBind used for
                training, chat and evaluation). All else is equal
    lean        see ImageProcessor; exact here, since Pillow resizes bytes
    background  what transparent pixels show; None drops transparency, as both references do

    Source: facebookresearch/ImageBind: imagebind/data.py; dreamerlin/chatbind; golden chatbind_image_preproc.
    """
    return FolderImageProcessor(
        size, CLIP_MEAN, CLIP_STD, edge=size, resample="bicubic", lean=lean, nearest=rule == "imagebind",
        background=background,
    )  # fmt: skip
