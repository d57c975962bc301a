"""`chatbridge review answers CFG_OR_RUN`: answers to a question file in the released layout."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatbridge.cli.answer_generation import OF_THE_FILE, answer_settings, open_model, predictions, task_settings
from chatbridge.cli.arguments import add_gpu_id, add_options
from chatbridge.cli.review.shared import add_chunks, say_failures
from chatbridge.common.errors import ConfigError, DataError, MediaError, Problem
from chatbridge.config.constraints import Choice
from chatbridge.config.schema import parse, plain
from chatbridge.experiment.build import plan_chat
from chatbridge.experiment.roots import Chat
from chatbridge.review.answer_lines import FIELDS, PEELED, answer_line, peeled
from chatbridge.review.answer_settings import AnswerSettings
from chatbridge.review.json_lines_file import JsonLinesFile, Row, without_repeats
from chatbridge.review.matching import chunk
from chatbridge.review.question_data import QuestionFile
from chatbridge.tasks import Prediction
from chatbridge.tasks.base import FREE
from chatbridge.tasks.generate import Generate

OF_SAMPLING = ("temperature", "top_p", "top_k", "seed")  # settings without effect on greedy answers
REFUSED = (*OF_THE_FILE, "drop_media", *FREE)  # settings of a task that --task does not take


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the questions of a review file with a trained model. Run it again to resume: answered questions are kept,
    those with a problem are tried again."""
    args = _parser().parse_args(arguments)
    config = _config(args)
    task = _task(args, config)
    assert isinstance(task.dataset, QuestionFile)
    data = task.dataset
    if args.check:
        print(_plan(args, config, data))
        return 0
    if args.out.exists() and args.out.samefile(args.questions):
        raise DataError(f"--out {args.out} is the file of the questions; choose another --out")
    indices = chunk(range(len(data)), args.num_chunks, args.chunk_idx)
    file, made_with = JsonLinesFile(args.out, FIELDS), _made_with(args, config, task)
    answered = _kept(args, file, data, indices, made_with)
    left = [index for index in indices if data.sample_id(index) not in answered]
    print(f"{args.questions}: {len(indices):,} questions, {len(indices) - len(left):,} answered already", flush=True)
    failed: dict[str, str] = {}
    if left:
        for prediction in predictions(config, task, left, args.workers, args.gpu_id):
            if "problem" in prediction:
                failed[prediction["id"]] = prediction["problem"]
            else:
                file.append(_line(args, data, prediction, made_with))
    order = {data.sample_id(index): index for index in range(len(data))}
    rows = file.rewrite(lambda now: without_repeats(now, order))
    print(_result(args.out, rows, {data.sample_id(index) for index in indices}))
    say_failures(failed, "has no answer")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatbridge review answers",
        description=main.__doc__,
        epilog="exit code: 0 all answered; 1 questions failed; 2 invalid input",
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", metavar="CFG_OR_RUN",
        help="the YAML of a training or evaluation, a run folder, a checkpoint")  # fmt: skip
    add("--cfg-path", type=Path, metavar="X.yaml", help="the same, as the chat and the demo call it")
    add_options(parser)
    add("--questions", type=Path, required=True, metavar="FILE.jsonl",
        help="{question_id, text, image or another modality, category}")  # fmt: skip
    add("--root", "--image-folder", dest="root", type=Path, metavar="DIR",
        help="where media paths start (default: the folder of the questions); COCO's prefixes are found")  # fmt: skip
    add("--out", type=Path, required=True, metavar="FILE.jsonl",
        help="{question_id, prompt, text, answer_id, model_id, metadata}; chunks may share the file")  # fmt: skip
    add("--overwrite", action="store_true", help="replace the answers of --out")
    add("--model-id", metavar="NAME", help="of the answers (default: the name of the file or folder)")
    add("--task", nargs="+", default=[], metavar="KEY=VALUE",
        help="generation settings, which replace those of evaluation.generation: sample, temperature, max_new_tokens, "
        "seed, num_beams, batch_size, ...")  # fmt: skip
    add("--peel", nargs="*", default=list(PEELED), metavar="WORD",
        help=f"removed at the beginning of answers (default: {' '.join(PEELED)}); without WORD: nothing")  # fmt: skip
    add("--workers", type=int, choices=range(33), default=1, metavar="N", help="processes that read ahead")
    add_chunks(parser)
    add_gpu_id(parser)
    add("--check", action="store_true", help="print the plan and files that are missing; build nothing")
    return parser


def _config(args: argparse.Namespace) -> Chat:
    """The settings of a YAML, a run folder or a checkpoint. raises ConfigError"""
    if (args.model is None) == (args.cfg_path is None):
        raise ConfigError([Problem("CFG_OR_RUN", "name one YAML, run folder or checkpoint")])
    args.model = args.model or args.cfg_path
    return open_model(args.model, args.options)


def _task(args: argparse.Namespace, config: Chat) -> Generate:
    """raises ConfigError for wrong settings, DataError for questions that cannot be read"""
    given = task_settings(args.task, REFUSED)
    answers = {key: value for key, value in plain(config.evaluation.generation).items() if value is not None}
    if not given.get("sample", answers.get("sample")):
        answers = {key: value for key, value in answers.items() if key not in OF_SAMPLING}
    root = {"root": str(args.root)} if args.root is not None else {}
    placeholder = {"name": "records", "file": str(args.questions), **root}  # which checks that both exist
    settings = parse(Generate.Config, {**answers, **given, "dataset": placeholder}, path="task")
    data = QuestionFile.Config(file=args.questions, root=args.root, form=config.evaluation.question)
    chosen: Choice[Any] = Choice("questions", data, QuestionFile)
    return Generate(dataclasses.replace(settings, dataset=chosen), "review")


def _made_with(args: argparse.Namespace, config: Chat, task: Generate) -> dict[str, Any]:
    return {
        "questions": hashlib.sha256(args.questions.read_bytes()).hexdigest(),
        **answer_settings(config, task),
        "question form": plain(config.evaluation.question),
        "peel": args.peel,
        "model_id": _model_id(args),
    }


def _model_id(args: argparse.Namespace) -> str:
    return args.model_id or (args.model.resolve().name if args.model.is_dir() else args.model.stem)


def _kept(
    args: argparse.Namespace, file: JsonLinesFile, data: QuestionFile, indices: Sequence[int], made_with: dict[str, Any]
) -> set[str]:
    """Ids of the questions that are answered in the file. raises DataError for answers of other settings"""
    every = {data.sample_id(index) for index in range(len(data))}
    own = {data.sample_id(index) for index in indices}

    def is_other(row: Row) -> bool:
        return str(row["question_id"]) in every - own

    rows = file.rows(skip_others=args.overwrite)
    AnswerSettings(args.out, made_with).check(args.overwrite, any(map(is_other, rows)))
    if args.overwrite:
        rows = file.rewrite(lambda now: filter(is_other, now), skip_others=True)
    return {str(row["question_id"]) for row in rows}


def _line(args: argparse.Namespace, data: QuestionFile, prediction: Prediction, made_with: dict[str, Any]) -> Row:
    question = data.questions[prediction["index"]]
    text = peeled(prediction["prediction"], args.peel)
    return answer_line(question.id, question.text, text, _model_id(args), made_with)


def _plan(args: argparse.Namespace, config: Chat, data: QuestionFile) -> str:
    indices = chunk(range(len(data)), args.num_chunks, args.chunk_idx)
    missing = [problem for index in indices if (problem := _missing(data, index))]
    lines = [plan_chat(config, args.gpu_id), "", f"{args.questions}: {len(indices):,} of {len(data):,} questions"]
    if missing:
        lines.append(f"{len(missing):,} of them cannot be answered; the first: {missing[0]}")
    return "\n".join(lines)


def _missing(data: QuestionFile, index: int) -> str | None:
    """Why a question cannot be answered: a file that is not there."""
    try:
        paths = [Path(str(item.ref)) for item in data.media(data.questions[index])]
    except MediaError as error:
        return str(error)
    return next((f"there is no file {path}" for path in paths if not path.exists()), None)


def _result(out: Path, rows: Sequence[Row], own: set[str]) -> str:
    answered = [row for row in rows if str(row["question_id"]) in own]
    empty = sum(not str(row["text"]).strip() for row in answered)
    note = f"; {empty:,} answers are empty" if empty else ""
    return f"{len(answered):,} of {len(own):,} questions are answered in {out}{note}"
