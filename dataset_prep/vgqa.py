"""Convert Visual Genome's questions to data/multis/img_vqa_vg.json: a record per question.

Download question_answers.json and both parts of the images (VG_100K, VG_100K_2) from
https://homes.cs.washington.edu/~ranjay/visualgenome/api.html and put the images below data/multis/VG/images:

    python -m dataset_prep.vgqa --annotations raw/question_answers.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatbridge.datasets.formats.single_answer_vqa import vg
from dataset_prep.annotation_file import AnnotationFile, parser
from dataset_prep.common import arguments
from dataset_prep.image_index import ImageIndex
from dataset_prep.multis_records import first, questions


def main(given: Sequence[str] | None = None) -> int:
    made_by = "dataset_prep.vgqa"
    parsed = parser(__doc__, made_by)
    parsed.add_argument(
        "--annotations", type=arguments.existing_file, required=True, metavar="JSON", help="question_answers.json"
    )
    parsed.add_argument("--images", type=Path, help="Visual Genome's images (default: OUT/VG/images)")
    asked = parsed.parse_args(given)
    index = ImageIndex(asked.images or asked.out / "VG/images")
    inputs = {"annotations": asked.annotations}
    made = AnnotationFile(asked.out / "img_vqa_vg.json", made_by, inputs, images=len(index), limit=asked.limit)
    print(made.write(questions(first(vg(asked.annotations), asked.limit), "image_id", index.find, made)))
    return 0


if __name__ == "__main__":
    arguments.run(main)
