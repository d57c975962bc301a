"""Convert COCO captions to data/multis/img_cap_coco.json: a record per image with all its captions.

The input is COCO's own file (annotations_trainval2014.zip from https://cocodataset.org/#download), or Karpathy's split,
whose train and restval exclude the 5,000 images on which captions are usually evaluated:

    python -m dataset_prep.cococap --annotations raw/captions_train2014.json
    python -m dataset_prep.cococap --annotations raw/dataset_coco.json --split train restval

The images are below data/multis/coco/images, with their names of 2014 or 2017, at any depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from chatbridge.datasets.formats.coco import coco, karpathy
from chatbridge.datasets.formats.records import CaptionRecord, Parsed
from dataset_prep.annotation_file import AnnotationFile, parser
from dataset_prep.common import arguments
from dataset_prep.image_index import ImageIndex
from dataset_prep.multis_records import captions, first


def main(given: Sequence[str] | None = None) -> int:
    made_by = "dataset_prep.cococap"
    parsed = parser(__doc__, made_by)
    parsed.add_argument(
        "--annotations", type=arguments.existing_file, required=True, metavar="JSON", help="COCO's or Karpathy's file"
    )
    parsed.add_argument("--split", nargs="+", choices=("train", "restval", "val", "test"), help="of Karpathy's file")
    parsed.add_argument("--images", type=Path, help="COCO's images (default: OUT/coco/images)")
    asked = parsed.parse_args(given)
    index = ImageIndex(asked.images or asked.out / "coco/images", prefer=("train2014", "train2017"))
    inputs = {"annotations": asked.annotations}
    made = AnnotationFile(
        asked.out / "img_cap_coco.json", made_by, inputs, split=asked.split, images=len(index), limit=asked.limit
    )
    found = coco(asked.annotations) if asked.split is None else _of_splits(karpathy(asked.annotations), asked.split)
    print(made.write(captions(first(found, asked.limit), "image_id", index.find, made)))
    return 0


def _of_splits(found: Iterator[Parsed[CaptionRecord]], splits: Sequence[str]) -> Iterator[Parsed[CaptionRecord]]:
    return (one for one in found if one.record is None or one.record.details["split"] in splits)


if __name__ == "__main__":
    arguments.run(main)
