"""Convert VQAv2 to data/multis/img_vqa_vqav2.json: a record per question with its most frequent answer.

Download the questions and annotations of the training split from https://visualqa.org/download.html, and COCO's images
of 2014 (see dataset_prep/cards/cococap.md), in any sub-folders:

    python -m dataset_prep.vqav2 --questions raw/v2_OpenEnded_mscoco_train2014_questions.json \\
        --annotations raw/v2_mscoco_train2014_annotations.json --images data/multis/coco/images
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatbridge.datasets.formats.vqa import vqav2
from dataset_prep.annotation_file import AnnotationFile, parser
from dataset_prep.common import arguments
from dataset_prep.image_index import ImageIndex
from dataset_prep.multis_records import first, questions


def main(given: Sequence[str] | None = None) -> int:
    made_by = "dataset_prep.vqav2"
    parsed = parser(__doc__, made_by)
    parsed.add_argument(
        "--questions", type=arguments.existing_file, required=True, metavar="JSON", help="the questions"
    )
    parsed.add_argument(
        "--annotations", type=arguments.existing_file, required=True, metavar="JSON", help="the answers"
    )
    parsed.add_argument("--images", type=Path, help="COCO's images (default: OUT/coco/images)")
    asked = parsed.parse_args(given)
    index = ImageIndex(asked.images or asked.out / "coco/images", prefer=("train2014", "train2017"))
    inputs = {"questions": asked.questions, "annotations": asked.annotations}
    made = AnnotationFile(asked.out / "img_vqa_vqav2.json", made_by, inputs, images=len(index), limit=asked.limit)
    found = vqav2(asked.annotations, asked.questions)
    print(made.write(questions(first(found, asked.limit), "image_id", index.find, made)))
    return 0


if __name__ == "__main__":
    arguments.run(main)
