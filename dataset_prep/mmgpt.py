"""Convert the instruction data of Multimodal-GPT to data/mmgpt/<set>.json, in the layouts that its readers take.

    vqa, okvqa, aokvqa, coco_caption       images of COCO, found by their number in data/multis/coco/images
    ocr_vqa, text_ocr, gqa, clevr,         images in a folder of their own, see --images
    nlvrv1, nlvrv2, snlive
    dolly, alpaca_gpt4, baize              text-only

    python -m dataset_prep.mmgpt aokvqa --list raw/aokvqa/aokvqa_v1p0_train.json
    python -m dataset_prep.mmgpt okvqa --list raw/okvqa/mscoco_train2014_annotations.json \\
        --questions raw/okvqa/OpenEnded_mscoco_train2014_questions.json
    python -m dataset_prep.mmgpt coco_caption --list raw/coco/dataset_coco.json --split train restval val

Names of images are written relative to the image folder, as the existing files have them. A record whose image does not
exist, or that has no answer, is skipped and listed in data/mmgpt/<set>.skipped.jsonl.

The lists of LLaVA are prepared by dataset_prep.llava, cc_sbu_align by dataset_prep.cc_sbu_align.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from chatbridge.common.errors import DataError
from dataset_prep.annotation_file import AnnotationFile, Record, parser, shown
from dataset_prep.common import arguments
from dataset_prep.common.input_files import files_below
from dataset_prep.image_index import ENDINGS, ImageIndex
from dataset_prep.mmgpt_records import COCO, SETS, Example, InstructionSet
from dataset_prep.multis_records import Find

MADE_BY = "dataset_prep.mmgpt"
Reason = Callable[[str], str]  # name of a file that was not found -> why


def main(given: Sequence[str] | None = None) -> int:
    parsed = parser(__doc__, MADE_BY, "data/mmgpt")
    parsed.add_argument("set", choices=tuple(SETS), help="the set that the list is")
    parsed.add_argument("--list", type=arguments.existing_file, required=True, help="the published annotation file")
    parsed.add_argument("--questions", type=arguments.existing_file, metavar="JSON",
                        help="vqa, okvqa: the file with the questions; --list has the answers")  # fmt: skip
    parsed.add_argument("--split", nargs="+", help="coco_caption: splits of Karpathy's file (without: COCO's file); "
                        "ocr_vqa: train unless given")  # fmt: skip
    parsed.add_argument("--images", type=Path, metavar="FOLDER",
                        help=f"where the images are (default: {COCO}, or the folder on the card)")  # fmt: skip
    asked = parsed.parse_args(given)
    chosen = SETS[asked.set]
    if fault := _argument_fault(asked, chosen):
        parsed.error(fault)
    find, reason, num_images = _available(asked, chosen)
    inputs = {"list": asked.list} | ({"questions": asked.questions} if asked.questions else {})
    made = AnnotationFile(asked.out / chosen.file_name(asked.set, asked.list), MADE_BY, inputs,
                          chosen.layout, images=num_images, split=asked.split, limit=asked.limit)  # fmt: skip
    print(made.write(islice(_records(asked, chosen, (find, reason), made), asked.limit)))
    return 0


def _argument_fault(asked: Namespace, chosen: InstructionSet) -> str | None:
    """An argument that the set needs or does not take."""
    if "questions" in chosen.asks and asked.questions is None:
        return f"{asked.set} has two files: give the questions with --questions"
    for name in ("questions", "split"):
        if getattr(asked, name) is not None and name not in chosen.asks:
            return f"--{name} is not used by {asked.set}"
    strange = [name for name in asked.split or () if name not in chosen.splits]
    if strange:
        return f"--split {strange[0]} is not a split of {asked.set} ({', '.join(chosen.splits)})"
    if asked.images is not None and chosen.images is None:
        return f"--images is not used: {asked.set} is text-only"
    return None


def _available(asked: Namespace, chosen: InstructionSet) -> tuple[Find, Reason, int]:
    """The search for the file of a name, why it finds none, and the number of images."""
    if chosen.images is None:
        return lambda name: None, _gone, 0
    folder = asked.images or Path(chosen.images)
    if not folder.is_dir():
        hint = "prepare COCO's images first (dataset_prep/cards/cococap.md)" if chosen.is_coco else "unpack its images"
        raise DataError(f"there is no folder {folder}; {hint}, or name their folder with --images")
    if chosen.is_coco:
        index = ImageIndex(folder, prefer=("train2014", "val2014", "train2017"))
        return index.find, _gone, len(index)
    files = FilesBelow(folder)
    return (files.anywhere, files.reason, len(files)) if chosen.has_names else (files.at, _gone, len(files))


def _gone(name: str) -> str:
    return "its image does not exist"


class FilesBelow:
    """The files below a folder, by the path in it or by name."""

    def __init__(self, folder: Path):
        self._paths, self._by_name = set[str](), dict[str, str | None]()
        for path in files_below(folder):
            self._paths.add(path.as_posix())
            self._by_name[path.name] = path.as_posix() if path.name not in self._by_name else None

    def __len__(self) -> int:
        return len(self._paths)

    def reason(self, name: str) -> str:
        """Why `anywhere` finds no file."""
        is_ambiguous = self._by_name.get(PurePosixPath(name).name, "") is None
        return "several folders have a file of its image's name" if is_ambiguous else _gone(name)

    def at(self, name: str) -> str | None:
        """The file with exactly this path, or with an ending of images after it, as a run finds it."""
        return next((one for one in (name, *(name + ending for ending in ENDINGS)) if one in self._paths), None)

    def anywhere(self, name: str) -> str | None:
        """The same, else the only file with this name in any folder."""
        return self.at(name) or self._by_name.get(PurePosixPath(name).name)


def _records(
    asked: Namespace, chosen: InstructionSet, search: tuple[Find, Reason], made: AnnotationFile
) -> Iterator[Record]:
    """The valid records whose images exist; the others are skipped, each with its reason."""
    find, reason = search
    settings: dict[str, Any] = {name: getattr(asked, name) for name in chosen.asks}
    for found in shown(chosen.read(asked.list, **settings), asked.set):
        if found.record is None:
            made.skip(found.place, "is malformed", found.fault or "")
            continue
        example: Example = found.record
        if example.fault is not None:
            made.skip(example.id, *example.fault)
            continue
        names = [next(filter(None, map(find, some)), None) for some in example.images]
        missing = [some[-1] for some, name in zip(example.images, names) if name is None]
        if missing:
            made.skip(example.id, reason(missing[0]), missing[0])
            continue
        existing = [name for name in names if name is not None]
        yield example.put(example.record, existing) if example.put else example.record


if __name__ == "__main__":
    arguments.run(main)
