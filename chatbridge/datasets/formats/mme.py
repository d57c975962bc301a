"""MME: a folder per subject with images and text files of two questions each, in both placements of the release.

    <folder>/existence/000000006040.jpg                        the images lie beside the text files
    <folder>/existence/000000006040.txt                        two lines: question<TAB>answer
    <folder>/posters/images/tt0022913.jpg                      or in folders of their own;
    <folder>/posters/questions_answers_YN/tt0022913.txt        those of artwork are in images/toy_dataset

An image has the name of its text file with .jpg, else .png, else another ending of an image. A question ends with
"Please answer yes or no."; the answer is Yes or No.

Source: BradyFU/Awesome-Multimodal-Large-Language-Models, MME_Benchmark_release_version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.formats.records import Parsed

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBJECTS = (*PERCEPTION, *COGNITION)
PER_IMAGE = 2  # questions about an image: the answer to one is yes, to the other no
QUESTIONS = "questions_answers_YN"
IMAGES = ("images", "images/toy_dataset", "")  # folders of a subject that may have the images
FIRST_ENDINGS = ("jpg", "png")  # in this order, where an image exists in several


@dataclass(frozen=True)
class ImageQuestions:
    """The two questions about one image.

    file       the image from the folder of the release; where none exists, the name it would have
    has_file   whether it exists
    questions  (question, "yes" or "no"), as many as PER_IMAGE
    """

    subject: str
    file: str
    has_file: bool
    questions: tuple[tuple[str, str], ...]


def mme(folder: Path, subjects: Sequence[str] | None = None) -> Iterator[Parsed[ImageQuestions]]:
    """The images of all subjects in the order of SUBJECTS, or of these, each with its questions.

    raises   DataError when a subject has no folder or no questions
    """
    wanted = tuple(subjects or SUBJECTS)
    absent = [name for name in wanted if not (folder / name).is_dir()]
    if absent:
        raise DataError(f"{folder}: {_absent(folder, wanted, absent)}")
    for subject in wanted:
        yield from _subject(folder, subject)


def _absent(folder: Path, wanted: Sequence[str], absent: Sequence[str]) -> str:
    """Why the folder is not the release, and the next step."""
    deeper = next((one for one in sorted(folder.glob("*")) if any((one / name).is_dir() for name in wanted)), None)
    if len(absent) == len(wanted):
        step = f"the subjects are in {deeper}; name that folder" if deeper else (
            "name the folder that has existence/, count/, position/ and so on"
        )  # fmt: skip
        return f"has no folder of a subject of MME; {step}"
    there = ", ".join(name for name in wanted if name not in absent)
    named = f"has no folder {', '.join(f'{name}/' for name in absent)}"
    return f"{named}; copy what is missing, or evaluate what is there: subjects: [{there}]"


def _subject(folder: Path, subject: str) -> Iterator[Parsed[ImageQuestions]]:
    place = folder / subject
    apart = place / QUESTIONS
    files = sorted(file for file in (apart if apart.is_dir() else place).glob("*.txt") if file.name[0] != ".")
    if not files:
        raise DataError(f"{place}: has no questions; expected <image>.txt here or in {QUESTIONS}/")
    images = _images(place)
    for file in files:
        named = f"{file.relative_to(folder).as_posix()}"
        try:
            asked = _questions(file.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            yield Parsed(named, None, f"is not UTF-8 text ({error.reason} at byte {error.start})")
        except ValueError as error:
            yield Parsed(named, None, str(error))
        else:
            image = images.get(file.stem)
            name = f"{subject}/{image or f'{file.stem}.{FIRST_ENDINGS[0]}'}"
            yield Parsed(named, ImageQuestions(subject, name, image is not None, asked))


def _images(place: Path) -> dict[str, str]:
    """Name without its ending -> image file from the subject's folder. Earlier folders and endings win."""
    endings = MODALITIES.get("image").endings.lookup
    order = {f".{one}": rank for rank, one in enumerate(dict.fromkeys((*FIRST_ENDINGS, *endings)))}
    found: dict[str, str] = {}
    for inner in IMAGES:
        files = (file for file in (place / inner).glob("*") if file.suffix.lower() in order and file.name[0] != ".")
        for file in sorted(files, key=lambda file: (order[file.suffix.lower()], file.name)):
            found.setdefault(file.stem, file.relative_to(place).as_posix())
    return found


def _questions(text: str) -> tuple[tuple[str, str], ...]:
    """raises ValueError with what is wrong with a text file"""
    lines = [line for line in text.splitlines() if line.strip()]
    found: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 2 or not columns[0]:
            raise ValueError(f"line {number} has {len(columns)} columns, expected question<TAB>answer")
        if columns[1].lower() not in ("yes", "no"):
            raise ValueError(f"line {number} has the answer {columns[1][:40]!r}, expected Yes or No")
        found.append((columns[0], columns[1].lower()))
    if len(found) != PER_IMAGE:
        raise ValueError(f"has {len(found)} question{'s' * (len(found) != 1)}, expected {PER_IMAGE}")
    if len({question for question, _ in found}) < PER_IMAGE:
        raise ValueError("asks the same question twice")
    return tuple(found)
