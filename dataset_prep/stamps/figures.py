"""What the run on real weights can do, from the results of its evaluation: a table, and figures.json beside them.

    python -m dataset_prep.stamps.figures runs/stamps/eval

Every question is asked with all of its media, with each removed, and with each exchanged for another question's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import replace_text
from chatbridge.common.text_table import text_table
from dataset_prep.common.arguments import run

CHANCE = {"pictures": 0.25, "sounds": 0.25}  # four options
PAIR_CHANCE = {"both": 0.25, "same": 0.5}
CONDITIONS = {"": "all", "without_image": "no picture", "without_audio": "no sound",
              "shuffled_image": "other picture", "shuffled_audio": "other sound"}  # fmt: skip


def figures(folder: Path) -> dict[str, Any]:
    """The figures of an evaluation.

    returns  captions: nats per token under each condition; choices: task, or kind of pair -> chance, count and the
             share of correct answers under each condition
    raises   DataError if the folder holds no finished evaluation of eval_configs/stamps_eval.yaml
    """
    choices = {task: {"chance": chance, **dict(_correct(folder, task, {}))} for task, chance in CHANCE.items()}
    for kind, chance in PAIR_CHANCE.items():
        for paired in ("known", "never"):
            scores = dict(_correct(folder, "pairs", {"kind": kind, "paired": paired}))
            choices[f"pairs: {kind}, {paired} paired"] = {"chance": chance, **scores}
    return {"captions": dict(_caption_losses(folder)), "choices": choices}


def _caption_losses(folder: Path) -> Iterator[tuple[str, float]]:
    """(condition, nats per token of the held-out captions)"""
    for condition in ("", "shuffled_image", "without_image"):
        lines = [one for one in _lines(folder, "captions", condition) if "problem" not in one]
        total = sum(one["answer_logprob"] for one in lines)
        yield condition or "all", -total / sum(one["answer_tokens"] for one in lines)


def _lines(folder: Path, task: str, condition: str) -> list[dict[str, Any]]:
    path = folder / f"predictions_{task}{'.' + condition if condition else ''}.jsonl"
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; run: python -m chatbridge evaluate --cfg-path eval_configs/stamps_eval.yaml"
        )
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); remove it and evaluate again") from None
    if all("problem" in line for line in lines):
        raise DataError(f"{path} has no answered question, so there are no figures; evaluate again")
    return lines


def _correct(folder: Path, task: str, details: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """("count", questions), and (condition, share correct) for each condition of the task."""
    for condition in CONDITIONS:
        if condition and not (folder / f"predictions_{task}.{condition}.jsonl").is_file():
            continue
        lines = [one for one in _lines(folder, task, condition) if details.items() <= one["details"].items()]
        if not condition:
            yield "count", len(lines)
        yield (
            condition or "all",
            sum(one["prediction"] == one["details"]["answer"] for one in lines) / max(1, len(lines)),
        )


def show(found: Mapping[str, Any]) -> str:
    """The figures as lines of text."""
    losses = found["captions"]
    head, rows = ("questions", "count", "chance", *CONDITIONS.values()), list[list[str]]()
    for name, scores in found["choices"].items():
        shares = [scores.get(condition or "all") for condition in CONDITIONS]
        rows.append([name, str(scores["count"]), *(_percent(value) for value in (scores["chance"], *shares))])
    return (
        f"captions of unseen pictures: {losses['all']:.2f} nats a token with their own picture, "
        f"{losses['shuffled_image']:.2f} with another one, {losses['without_image']:.2f} without\n\n"
        f"correct answers, in percent\n{text_table(head, rows)}"
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="results of the evaluation, for example runs/stamps/eval")
    folder: Path = parser.parse_args(arguments).folder
    found = figures(folder)
    replace_text(folder / "figures.json", json.dumps(found, indent=1))
    print(show(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
