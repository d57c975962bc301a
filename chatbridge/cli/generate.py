"""`chatbridge generate CFG_OR_RUN --records questions.jsonl --out answers.jsonl` needs no reference answers.

The questions are read, batched and decoded as in an evaluation. Every answer is written as soon as its batch is done,
so the same command resumes after a stop; a record that cannot be answered is a line with its problem.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatbridge.cli.answer_generation import answer_settings, open_model, predictions, task_settings
from chatbridge.cli.arguments import add_options
from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.common.one_process import only_process
from chatbridge.common.safe_files import replace_text
from chatbridge.config.schema import parse
from chatbridge.datasets.formats.json_stream import section
from chatbridge.datasets.formats.textbind_results import answered
from chatbridge.experiment.roots import Chat
from chatbridge.models.drawing.artist import UNFINISHED
from chatbridge.tasks import Prediction, Task
from chatbridge.tasks.drawn_answers import DrawingFolder, num_undrawn
from chatbridge.tasks.generate import Generate

SETTINGS = ".settings.json"  # beside the answers: the model and settings that gave them


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the questions of a file of records (docs/your_own_data.md) with a trained model. Run it again to resume:
    answered records are kept, records with a problem are tried again."""
    args = _parser().parse_args(arguments)
    if args.out.exists() and args.records.exists() and args.out.samefile(args.records):
        raise DataError(
            f"--out {args.out} is the file of the records, which the answers would overwrite; choose another --out"
        )
    config = open_model(args.model, args.options)
    task = _task(config, args)
    with only_process(args.out.with_name(f".{args.out.name}.in_use"), str(args.out)):
        return _answer(config, task, args)


def _answer(config: Chat, task: Generate, args: argparse.Namespace) -> int:
    """Answer what the file does not have yet; returns the exit code."""
    done = AnswerFile(args.out, _made_with(config, task, args.records))
    kept = done.kept(task, is_new=args.overwrite)
    left = [index for index in range(len(task.dataset)) if index not in kept]
    print(f"{args.records}: {len(task.dataset):,} records, {len(kept):,} answered already", flush=True)
    if left:
        done.write(predictions(config, task, left, args.workers, folder=done.drawings))
    failed, undrawn = done.sort()
    print(f"{len(task.dataset) - failed:,} answers in {args.out}" + (f", {failed:,} records failed" if failed else ""))
    if undrawn and config.model.generator is not None:
        print(f"{undrawn:,} captions have no image (see `problem` of `drawings`); the same command tries again")
    if args.results is not None:
        write_results(args.results, args.records, args.root or args.records.parent, done)
    return 1 if failed else 0


def write_results(path: Path, records: Path, root: Path, done: AnswerFile) -> None:
    """Write TextBind's records with their generated answers; a record that failed is as it was, with its problem."""
    lines, found = done.answers(), []
    for index, record in enumerate(value.value for value in section(records, "")):
        line, folder = lines[index], root / (record.get("image_dir") or "")
        if "problem" in line:
            found.append({**record, "problem": line["problem"]})
        else:
            found.append(answered(record, line, done.path, folder, UNFINISHED))
    replace_text(path, json.dumps(found, ensure_ascii=False, indent=1))
    print(f"{len(found):,} conversations in {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatbridge generate",
        description=main.__doc__,
        epilog="exit code: 0 all answered; 1 records failed (see `problem` in their lines); 2 invalid input",
    )
    add = parser.add_argument
    add(
        "model",
        type=Path,
        metavar="CFG_OR_RUN",
        help="the YAML of a training or evaluation, a run folder, a checkpoint",
    )
    add("--records", type=Path, required=True, metavar="FILE.jsonl", help="the questions")
    add("--format", choices=("records", "textbind"), default="records",
        help="of the records: JSON lines of ours, or the JSON list of TextBind, of which the last question is answered "
        "(its answer, if it has one, is left out)")  # fmt: skip
    add("--root", type=Path, metavar="DIR", help="where media paths start (default: the folder of the records)")
    add("--out", type=Path, required=True, metavar="FILE.jsonl",
        help="a line per record: index, id, question, answer, details; with drawings also `drawings` (caption, image, "
        "problem) and `parts`, and the images in FILE.drawings; or index, id, problem")  # fmt: skip
    add("--results", type=Path, metavar="FILE.json",
        help="with --format textbind: also write the conversations with their generated answers, as TextBind's batch "
        "inference writes inference_results.json")  # fmt: skip
    add("--task", nargs="+", default=[], metavar="KEY=VALUE",
        help="max_new_tokens, min_new_tokens, batch_size, num_beams, length_penalty, repetition_penalty, sample, "
        "temperature, top_p, top_k, seed, max_drawings, drop_media")  # fmt: skip
    add_options(parser)
    add("--workers", type=int, choices=range(33), default=1, metavar="N",
        help="processes that read and decode ahead; with 0, a decoder that crashes ends the command")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="start again although the file has answers")
    return parser


def _task(config: Chat, args: argparse.Namespace) -> Generate:
    """raises ConfigError for wrong settings, DataError for records that cannot be read"""
    if args.results is not None and args.format != "textbind":
        raise ConfigError([Problem("--results", "needs --format textbind", hint="add it, or remove --results")])
    taken = {path.resolve() for path in (args.records, args.out)}
    if args.results is not None and args.results.resolve() in taken:
        message = f"{args.results} is the file of the records or of the answers, which it would replace"
        raise ConfigError([Problem("--results", message, hint="choose another file")])
    if args.format == "textbind":
        folder = str(args.root or args.records.parent)
        dataset = {"name": "textbind", "annotations": str(args.records), "root": folder, "image_folder": folder}
    else:
        dataset = {"name": "records", "file": str(args.records), **({"root": str(args.root)} if args.root else {})}
    dataset["unanswered"] = "keep"
    settings = parse(Generate.Config, {**task_settings(args.task), "dataset": dataset}, path="task")
    found = [
        replace(one, path=f"task.{one.path}") for one in settings.drawing_problems(config.model.generator is not None)
    ]
    if found:
        raise ConfigError(found)
    return Generate(settings, "generate")


def _made_with(config: Chat, task: Generate, records: Path) -> dict[str, Any]:
    return {"records": hashlib.sha256(records.read_bytes()).hexdigest(), **answer_settings(config, task)}


class AnswerFile:
    """The file of answers, a line per record, and beside it the settings that gave them.

    raises   DataError when the file cannot be read or written, or holds answers of another model, file or settings
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any]) -> None:
        self.path = path
        self.made_with: dict[str, Any] = json.loads(json.dumps(made_with, default=str))
        self.settings = path.with_name(path.name + SETTINGS)
        self.drawings = DrawingFolder(path)

    def kept(self, task: Task, is_new: bool) -> dict[int, Prediction]:
        """index -> the line of every answered record. Lines with a problem or without an image that they name, and a
        last line that is incomplete, are removed from the file."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if is_new or not self.path.exists():
                self._replace(self.settings, [self.made_with])
                self._replace(self.path, [])
                self.drawings.clear()
                return {}
            self._compare()
            answers = {answer["index"]: answer for answer in self._answers() if self._is_whole(answer)}
            self._check_ids(answers, task)
            self._replace(self.path, answers.values())
            self.drawings.clear(keep=list(answers.values()))
            return answers
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}; choose another --out") from None

    def _is_whole(self, answer: Prediction) -> bool:
        """Whether an answer is complete: one whose image could not be drawn is tried again."""
        return "problem" not in answer and not num_undrawn(answer) and self.drawings.has_all(answer)

    def write(self, answers: Iterator[Prediction]) -> None:
        """Append every answer as soon as it is made."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
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
        answers = sorted(self._answers(), key=lambda answer: answer["index"])
        self._replace(self.path, answers)
        return sum("problem" in answer for answer in answers), sum(map(num_undrawn, answers))

    def answers(self) -> dict[int, Prediction]:
        """index -> the line of each record"""
        return {answer["index"]: answer for answer in self._answers()}

    def _answers(self) -> Iterator[Prediction]:
        lines = self.path.read_bytes().split(b"\n")
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


NOT_OURS = "choose another --out, or start again with --overwrite"


def _line(answer: Mapping[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False, default=str) + "\n"


def _public(answer: Prediction) -> Prediction:
    """The fields of an answer that do not belong to an evaluation."""
    if "problem" in answer:
        return {key: answer[key] for key in ("index", "id", "problem")}
    names = {"index": "index", "id": "id", "question": "question", "prediction": "answer", "drawings": "drawings",
             "parts": "parts", "details": "details"}  # fmt: skip
    return {public: answer[key] for key, public in names.items() if key in answer}


__all__ = ["AnswerFile", "main"]
