"""Resizing of images, and the choice of video frames."""

from __future__ import annotations

from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.piece_choice import groups, sample_frames, uniform_frames
from tests.parity.golden import Check


def image_preprocess(check: Check) -> None:
    """The evaluation transform, and the training transform with and without antialias."""
    golden = check.golden
    size = golden.config["resolution"]
    kinds = {
        "eval": ImageProcessor(size),
        "train_bilinear_aa": ImageProcessor(size, train=True),
        "train_bilinear_noaa": ImageProcessor(size, train=True, antialias=False),
    }
    for name, pixels in golden.inputs.items():
        for kind, processor in kinds.items():
            if f"{name}_{kind}" in golden.outputs:
                check.close(f"{name}_{kind}", processor(pixels.permute(2, 0, 1)))


def frame_sampling(check: Check) -> None:
    """Compare groups and choices of training and evaluation; float errors of the reference are left out."""
    for row in check.golden.about["split"]:
        what, found = f"{row['sample_num']} of {row['length']}", groups(row["length"], row["sample_num"])
        check.equal(f"{what}: first", [first for first, _ in found], row["group_first"])
        check.equal(f"{what}: last", [first + size - 1 for first, size in found], row["group_last"])
        check.equal(f"{what}: eval", sample_frames(row["length"], row["sample_num"]), row["eval"])
    for row in check.golden.about["uniform"]:
        if row.get("float_defect"):
            check.deviates("uniform frames: the reference's float steps give one index too many for some lengths")
        else:
            got = uniform_frames(row["length"], row["n"])
            check.equal(f"uniform {row['n']} of {row['length']}", got, row["indices"])
