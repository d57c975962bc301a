"""`chatbridge generate CFG_OR_RUN --records questions.jsonl --out answers.jsonl` needs no reference answers.

The questions are read, batched and decoded as in an evaluation. Every answer is written as soon as its batch is done,
so the same command resumes after a stop; a record that cannot be answered is a line with its problem. Under torchrun
each process answers its share.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatbridge.cli.answer_file import AnswerFile
from chatbridge.cli.answer_generation import answer_settings, open_model, predictions, task_settings
from chatbridge.cli.arguments import add_options
from chatbridge.common import dist as ranks
from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.common.one_process import only_process
from chatbridge.common.safe_files import replace_text
from chatbridge.common.threads import use_threads
from chatbridge.config.schema import parse
from chatbridge.datasets.formats.json_stream import section
from chatbridge.datasets.formats.textbind_results import answered
from chatbridge.experiment.roots import Chat
from chatbridge.models.drawing.artist import UNFINISHED
from chatbridge.tasks.generate import Generate


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
    try:
        return _start(config, task, args)
    finally:
        ranks.stop()


def _start(config: Chat, task: Generate, args: argparse.Namespace) -> int:
    dist = ranks.start(config.run.device)
    use_threads(config.run.threads)
    lock = args.out.with_name(f".{args.out.name}.in_use")
    with only_process(lock, str(args.out)) if dist.is_main else nullcontext():
        return _answer(config, task, args, dist)


def _answer(config: Chat, task: Generate, args: argparse.Namespace, dist: Dist) -> int:
    """Answer what the file does not have yet; returns the exit code."""
    done = AnswerFile(args.out, _made_with(config, task, args.records))
    kept = dist.gather(list(done.kept(task, is_new=args.overwrite)) if dist.is_main else [])[0]
    left = sorted({*range(len(task.dataset))} - {*kept})
    if dist.is_main:
        print(f"{args.records}: {len(task.dataset):,} records, {len(kept):,} answered already", flush=True)
    if own := left[dist.rank :: dist.world_size]:
        done.write(predictions(config, task, own, args.workers, folder=done.drawings, dist=dist), dist)
    dist.gather(None)  # all ranks have written
    return _finish(config, task, args, done) if dist.is_main else 0


def _finish(config: Chat, task: Generate, args: argparse.Namespace, done: AnswerFile) -> int:
    """Put the answers of all ranks in order, and report them; returns the exit code."""
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
    add("--records", type=Path, required=True, metavar="FILE.jsonl",
        help="the questions; `options` of a record are generation settings for its answer, and `stop`")  # fmt: skip
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
        dataset["faulty"] = "keep"
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


__all__ = ["main"]
