"""The file of answers of `chatbridge generate`: complete lines only, whatever ends the command, and of one model."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.dist import Dist
from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import replace_text
from chatbridge.tasks import Prediction, Task
from chatbridge.tasks.drawn_answers import DrawingFolder, num_undrawn

SETTINGS = ".settings.json"  # beside the answers: the model and settings that gave them
ALONE = Dist()
NOT_OURS = "choose another --out, or start again with --overwrite"


class AnswerFile:
    """The file of answers, a line per record, and beside it the settings that gave them. Several ranks write a file
    each, which `sort` and the next `kept` collect.

    raises   DataError when the file cannot be read or written, or holds answers of another model, file or settings
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any]) -> None:
        self.path = path
        self.made_with: dict[str, Any] = json.loads(json.dumps(made_with, default=str))
        self.settings = path.with_name(path.name + SETTINGS)
        self.drawings = DrawingFolder(path)

    def kept(self, task: Task, is_new: bool) -> dict[int, Prediction]:
        """index -> the line of every answered record, those that ranks left in files of their own among them. Lines
        with a problem or without an image that they name, and a last line that is incomplete, are removed."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if is_new or not self.path.exists():
                self._replace(self.settings, [self.made_with])
                self._replace(self.path, [])
                self._remove_parts()
                self.drawings.clear()
                return {}
            self._compare()
            answers = {answer["index"]: answer for answer in self._all_answers() if self._is_whole(answer)}
            self._check_ids(answers, task)
            self._replace(self.path, answers.values())
            self._remove_parts()
            self.drawings.clear(keep=list(answers.values()))
            return answers
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}; choose another --out") from None

    def _is_whole(self, answer: Prediction) -> bool:
        """Whether an answer is complete: one whose image could not be drawn is tried again."""
        return "problem" not in answer and not num_undrawn(answer) and self.drawings.has_all(answer)

    def write(self, answers: Iterator[Prediction], dist: Dist = ALONE) -> None:
        """Append every answer as soon as it is made: to the file itself, or with several ranks to one of this rank."""
        path = self.path if dist.world_size == 1 else self.path.with_name(f".{self.path.name}.rank{dist.rank}")
        try:
            with path.open("a", encoding="utf-8") as file:
                for answer in answers:
                    file.write(_line(_public(answer)))
                    file.flush()
        except OSError as error:
            raise DataError(
                f"{error.filename or self.path}: cannot be written: {error.strerror}; "
                "the same command resumes where this one stopped"
            ) from None

    def sort(self) -> tuple[int, int]:
        """Sort the lines in the order of the records; the number of lines with a problem, and of images that could not
        be drawn."""
        found = {answer["index"]: answer for answer in self._all_answers()}
        answers = [found[index] for index in sorted(found)]
        self._replace(self.path, answers)
        self._remove_parts()
        return sum("problem" in answer for answer in answers), sum(map(num_undrawn, answers))

    def answers(self) -> dict[int, Prediction]:
        """index -> the line of each record"""
        return {answer["index"]: answer for answer in self._answers()}

    def _parts(self) -> list[Path]:
        """The files of ranks."""
        return sorted(self.path.parent.glob(f".{glob.escape(self.path.name)}.rank*"))

    def _remove_parts(self) -> None:
        for path in self._parts():
            path.unlink(missing_ok=True)

    def _all_answers(self) -> Iterator[Prediction]:
        for path in (self.path, *self._parts()):
            yield from self._answers(path)

    def _answers(self, path: Path | None = None) -> Iterator[Prediction]:
        lines = (path or self.path).read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                answer = json.loads(line) if line else None
            except (ValueError, RecursionError):
                if number == len(lines):  # the process ended while it was written
                    return
                raise DataError(f"{self.path}: line {number} is not JSON; {NOT_OURS}") from None
            if answer is not None:
                if not isinstance(answer, dict) or not isinstance(answer.get("index"), int) or "id" not in answer:
                    raise DataError(f"{self.path}: line {number} is not an answer of this command; {NOT_OURS}")
                yield answer

    def _compare(self) -> None:
        try:
            before = json.loads(self.settings.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            before = None
        if not isinstance(before, dict):
            raise DataError(f"{self.path} exists without a valid {self.settings.name}; {NOT_OURS}")
        other = [key for key in self.made_with if before.get(key) != self.made_with[key]]
        if other:
            raise DataError(f"{self.path} holds answers made with a different {', '.join(other)}; {NOT_OURS}")

    def _check_ids(self, answers: Mapping[int, Prediction], task: Task) -> None:
        for index, answer in answers.items():
            if not 0 <= index < len(task.dataset) or task.dataset.sample_id(index) != answer["id"]:
                raise DataError(
                    f"{self.path} has an answer to {answer['id']!r}, which is not the id of record {index}; {NOT_OURS}"
                )

    @staticmethod
    def _replace(path: Path, answers: Any) -> None:
        replace_text(path, "".join(map(_line, answers)))


def _line(answer: Mapping[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False, default=str) + "\n"


def _public(answer: Prediction) -> Prediction:
    """The fields of an answer that do not belong to an evaluation."""
    if "problem" in answer:
        return {key: answer[key] for key in ("index", "id", "problem")}
    names = {"index": "index", "id": "id", "question": "question", "prediction": "answer", "drawings": "drawings",
             "parts": "parts", "details": "details"}  # fmt: skip
    return {public: answer[key] for key, public in names.items() if key in answer}


__all__ = ["AnswerFile"]
