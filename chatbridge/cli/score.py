"""`chatbridge score FILE --metrics cider,bleu --json OUT`: scores of a file of predictions, ours or anybody's.

A line of FILE is {"id": "a", "prediction": "a red cat", "references": ["a cat that is red"]}. A folder of an evaluation
is scored again in place, with the metrics of its tasks or with others; no model, data or media are needed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from chatbridge.cli.written_files import check_written
from chatbridge.common.errors import ConfigError, DataError, Problem, nearest
from chatbridge.common.safe_files import replace_text
from chatbridge.config.registry import add_plugins
from chatbridge.config.schema import plain
from chatbridge.experiment.receipt import rescored, scoring_settings
from chatbridge.experiment.roots import REGISTRIES
from chatbridge.report.run_files import read_metrics, read_task_nodes
from chatbridge.runners.run_folder import RESOLVED
from chatbridge.tasks.base import Task, TaskConfig, task_for_scoring
from chatbridge.tasks.evaluator import METRICS, score_in_place, summary_text, write_metrics
from chatbridge.tasks.metric_settings import metric_problems
from chatbridge.tasks.metrics.base import METRICS as METRIC_PARTS
from chatbridge.tasks.partial_answers import is_unfinished
from chatbridge.tasks.prediction_lines import (
    predictions_path,
    read_references,
    read_rows,
    with_references,
)
from chatbridge.tasks.receipt import Receipt, changed_predictions, read_receipt, receipt_of_file
from chatbridge.tasks.score_text import score_text
from chatbridge.tasks.scores_file import read_scores, scores_content, scores_path
from chatbridge.tasks.scoring import Scored


def main(arguments: Sequence[str] | None = None) -> int:
    """Score predictions from their file alone: nothing is generated, and the same file gives the same numbers."""
    args = _parser().parse_args(arguments)
    check_written({"--json": args.json}, [args.file, args.references])
    add_plugins(REGISTRIES, args.plugins)
    if args.file.is_dir():
        found = score_folder(args.file, args)
        content = found if args.task is None else found[args.task]
    else:
        content = score_file(args.file, args)
    if args.json is not None:
        replace_text(args.json, json.dumps(content, indent=1, ensure_ascii=False))
        print(f"scores: {args.json}")
    return 0


def score_file(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The content of a file of scores, for a file of predictions.

    raises   ConfigError for unknown metrics, DataError for a file that cannot be scored
    """
    task = _task_of(path, args)
    rows = read_rows(path)
    if args.references is not None:
        rows = with_references(rows, read_references(args.references), args.references)
    try:
        scored = task.scored(rows, path.parent)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    _check_measured(path, task, scored)
    content = scores_content(scored, scored.intervals(task.config.resampled_together))
    receipt = receipt_of_file(path, args.references, scoring_settings(task))
    print(f"{table(content)}\nreceipt: {receipt['digest']}")
    return {**content, "receipt": receipt}


def score_folder(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Task -> the content of its file of scores, which is written again, and metrics.json of a complete one.

    raises   ConfigError for options that do not fit, DataError for a folder that cannot be scored
    """
    if args.references is not None:
        raise ConfigError([Problem("--references", "is for a file of predictions", hint="name the file, not a folder")])
    nodes = _nodes(folder)
    if not nodes and (files := sorted(folder.glob(predictions_path(folder, "*").name))):
        hint = f"score a file: chatbridge score {files[0]} --metrics ...; or copy {RESOLVED} of the evaluation here"
        raise DataError(f"{folder} has no {RESOLVED} that names the tasks of its predictions; {hint}")
    names = [name for name in nodes if predictions_path(folder, name).is_file()]
    results = _known_results(folder, is_replaced={*(names if args.task is None else [args.task])} == {*nodes})
    if args.task is not None and args.task not in names:
        raise ConfigError([_no_task(args.task, names, folder)])
    if not names:
        raise DataError(f"{folder} has no predictions_<task>.jsonl of a task in its {RESOLVED}; evaluate first")
    receipt = read_receipt(folder)
    found: dict[str, Any] = {}
    tasks: dict[str, Task] = {}
    for name in [args.task] if args.task is not None else names:
        tasks[name] = task = _with_metrics(task_for_scoring(name, nodes[name]), args)
        results[name] = score_in_place(task, folder)
        found[name] = read_scores(scores_path(folder, name))
        print(summary_text(name, results[name]))
    if is_unfinished(folder):  # which a metrics.json would make look complete, and its answers be made again
        print(f"{folder}: this evaluation is not complete: no {METRICS} is written; evaluate again to go on with it")
    else:
        write_metrics(folder / METRICS, results)
    if receipt is not None:
        receipt = rescored(receipt, tasks)
        receipt.write(folder)
        print("\n".join(receipt_lines(folder, receipt, tasks)))
    return found


def _known_results(folder: Path, is_replaced: bool) -> dict[str, Any]:
    """Task -> its entry of metrics.json; {} without one, and for a broken one if every task is scored again.

    raises   DataError for a broken one otherwise
    """
    path = folder / METRICS
    if not path.is_file():
        return {}
    try:
        return dict(read_metrics(path))
    except DataError as error:
        if not is_replaced:
            hint = "remove it and score all tasks: those without predictions have to be evaluated again"
            raise DataError(f"{error}; {hint}") from None
        print(f"{error}; it is written again from the predictions of all tasks")
        return {}


def receipt_lines(folder: Path, receipt: Receipt, names: Collection[str]) -> list[str]:
    """A line per task: its digest, or that its predictions are not those of the receipt."""
    changed = changed_predictions(folder, receipt)
    note = "none: {} was changed since its evaluation, so its receipt does not hold for it"
    return [
        f"receipt of {name}: {note.format(predictions_path(folder, name).name) if name in changed else one.digest}"
        for name, one in receipt.tasks.items()
        if name in names
    ]


def table(content: Mapping[str, Any]) -> str:
    """The scores for a terminal, and what was counted."""
    lines = [f"{'':<28}{'score':>8}  95% interval"] if content["intervals"] else []
    for name, value in content["scores"].items():
        unit = content["score_info"][name]["unit"]
        low, high = content["intervals"].get(name, (value, value))
        between = f"  {score_text(low, unit)} to {score_text(high, unit)}" if low < high else ""
        lines.append(f"{name:<28}{score_text(value, unit):>8}{between}  of {content['measured'][name]:,}")
    counted = {**{f"unreadable: {reason}": count for reason, count in content["unreadable"].items()},
               **content["answers"], **content["notes"]}  # fmt: skip
    lines += [f"{name}: {count:,} of {content['count']:,}" for name, count in counted.items()]
    lines += [f"{name}: no score, since no line has what it needs" for name in content["without_score"]]
    return "\n".join(lines)


def _task_of(path: Path, args: argparse.Namespace) -> Task:
    """What scores a file: its task, if it is in the folder of an evaluation, or the metrics of the command alone."""
    nodes = _nodes(path.parent)
    name = args.task or path.stem.removeprefix("predictions_")
    if args.task is not None and args.task not in nodes:
        raise ConfigError([_no_task(args.task, nodes, path.parent)])
    if node := nodes.get(name) or nodes.get(name.rpartition(".")[0]):  # of a condition: predictions_qa.without_audio
        return _with_metrics(task_for_scoring(name, node), args)
    if not args.metrics:
        hint = f"for example --metrics cider,bleu,rouge_l; there are: {', '.join(METRIC_PARTS.names())}"
        raise ConfigError([Problem("--metrics", f"is needed: {path} belongs to no task of a run folder", hint=hint)])
    no_data: Any = None
    return _with_metrics(Task(TaskConfig(dataset=no_data), name, opens_data=False), args)


def _with_metrics(task: Task, args: argparse.Namespace) -> Task:
    """The task with the metrics of the command, if it names any. raises ConfigError for unknown or clashing ones"""
    config = task.config
    if args.metrics:
        config = replace(config, metrics=_chosen(args), main_metric=None)
    if problems := list(metric_problems(config.metric_settings, config.main_metric)):
        raise ConfigError([replace(one, path=_argument(one.path)) for one in problems])
    return type(task)(config, task.name, opens_data=False)


def _argument(path: str) -> str:
    """The part of the command line that a path of a task stands for: metrics.bleu.max_n is set by --options."""
    metric = path.removeprefix("metrics.")
    return f"--options {metric}=..." if metric != path else path.replace("metrics", "--metrics", 1)


def _chosen(args: argparse.Namespace) -> dict[str, Any]:
    """Name -> settings of the metrics that the command names."""
    names = [name for part in args.metrics for one in part.split(",") if (name := one.strip())]
    if not names:
        hint = f"for example bleu; there are: {', '.join(METRIC_PARTS.names())}"
        raise ConfigError([Problem("--metrics", "names no metric", hint=hint)])
    found: dict[str, Any] = {name: {} for name in names}
    for option in args.options:
        key, sign, value = option.partition("=")
        name, dot, setting = key.strip().partition(".")
        if not sign or not dot or name not in found:
            message = f"expected METRIC.SETTING=VALUE of a metric in --metrics, got {option!r}"
            raise ConfigError([Problem("--options", message, allowed=tuple(found), nearest=nearest(name, found))])
        try:
            found[name][setting] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError([Problem("--options", f"the value of {option!r} is not readable as YAML")]) from None
    return found


def _nodes(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Task -> its settings, of the folder of an evaluation, also of one during a training; {} for another folder."""
    for run in (folder, folder.absolute().parents[1] if folder.absolute().parent.name == "evaluation" else folder):
        if (run / RESOLVED).is_file():
            return read_task_nodes(run / RESOLVED)
    return {}


def _no_task(name: str, names: Collection[str], folder: Path) -> Problem:
    message = f"{folder} has no predictions of a task named {name!r}"
    return Problem("--task", message, allowed=tuple(names), nearest=nearest(name, names))


def _check_measured(path: Path, task: Task, scored: Scored) -> None:
    """raises DataError where the file gives no score at all"""
    if not task.metrics or scored.values:
        return
    names = ", ".join(task.metrics)
    if any(item.references for item in scored.items):
        settings = ", ".join(f"{name} {plain(metric.config)}" for name, metric in task.metrics.items())
        hint = f"choose another metric, or correct its settings, now {settings}"
        raise DataError(f"{path}: no line has what {names} needs; {hint}")
    hint = "add them to the lines, or name a file of them with --references FILE"
    raise DataError(f"{path}: no line has references, so {names} cannot score it; {hint}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatbridge score",
        description=main.__doc__,
        epilog="exit code: 0 scored; 2 invalid input",
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE_OR_FOLDER",
        help='a line {"id", "prediction", "references": [...]} per item; or the folder of an evaluation, whose '
        "scores_<task>.json and metrics.json are written again")  # fmt: skip
    add("--metrics", nargs="+", default=[], metavar="NAME",
        help=f"{', '.join(METRIC_PARTS.names())}; default: those of the task")  # fmt: skip
    add("--options", nargs="+", default=[], metavar="METRIC.SETTING=VALUE", help="settings of metrics: bleu.max_n=2")
    add("--json", type=Path, metavar="OUT", help="write scores, per_item (metric -> id -> value), intervals and counts")
    add("--task", metavar="NAME", help="of a run folder: its settings, or this task alone (default: all)")
    add("--references", type=Path, metavar="FILE.jsonl", help='a line {"id", "references": [...]} per item')
    add("--plugins", nargs="+", default=[], metavar="PACKAGE", help="with metrics of your own: my_lab/metrics/...")
    return parser
