"""Time of the caption metrics beside pycocoevalcap, on the same captions in one run.

    python -m benchmarks.caption_metrics --captions ../shared/reference/data/caps_boxes_coco2014_val_80.jsonl

5000 predictions with 5 references each, made from the captions of MS COCO that the file has: those of an image in
random order, a word in five replaced by another of the file. pycocoevalcap needs Java; without SPICE on both sides.
Each side is a process of its own, so that neither finds caches of the other.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDES = ("ours", "ours with METEOR's tables", "pycocoevalcap")


def rows_of(path: Path, count: int, num_references: int = 5) -> list[dict[str, Any]]:
    """Items: id, prediction, references."""
    number = random.Random(0)
    images = [json.loads(line)["captions"] for line in path.read_text("utf-8").splitlines()]
    words = sorted({word for captions in images for caption in captions for word in caption.split()})

    def changed(caption: str) -> str:
        return " ".join(number.choice(words) if number.random() < 0.2 else word for word in caption.split())

    rows = []
    for k in range(count):
        captions = number.choice(images)
        texts = [changed(number.choice(captions)) for _ in range(num_references + 1)]
        rows.append({"id": str(k), "prediction": texts[0], "references": texts[1:]})
    return rows


def ours(rows: list[dict[str, Any]], tables: str) -> dict[str, float]:
    """Seconds per part; "import" is what loading the metrics takes."""
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    from chatbridge.tasks.metrics._captions import captions_of
    from chatbridge.tasks.metrics.base import METRICS, Item

    metrics: dict[str, Any] = {name: METRICS.get(name) for name in ("bleu", "rouge_l", "cider", "meteor")}
    seconds["import"] = time.perf_counter() - start
    items = [Item(row["id"], row["prediction"], tuple(row["references"])) for row in rows]
    _timed(seconds, "tokens", lambda: captions_of(items))
    for name, metric in metrics.items():
        config = metric.Config(tables=tables) if name == "meteor" else metric.Config()
        _timed(seconds, name, lambda metric=metric, config=config: metric(config).scores(items)[0].value)
    return seconds


def theirs(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds per part of pycocoevalcap; METEOR includes the start of its Java process."""
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    seconds["import"] = time.perf_counter() - start
    texts = {row["id"]: [{"caption": text} for text in row["references"]] for row in rows}
    tokenizer = PTBTokenizer()
    truth = _timed(seconds, "tokens", lambda: tokenizer.tokenize(texts))
    texts = {row["id"]: [{"caption": row["prediction"]}] for row in rows}
    answers = _timed(seconds, "tokens", lambda: tokenizer.tokenize(texts))
    _timed(seconds, "bleu", lambda: Bleu(4).compute_score(truth, answers, verbose=0))
    for name, scorer in (("rouge_l", Rouge), ("cider", Cider), ("meteor", Meteor)):
        _timed(seconds, name, lambda scorer=scorer: scorer().compute_score(truth, answers))
    return seconds


def _timed(seconds: dict[str, float], name: str, run: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = run()
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    return result


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True, help="a line {captions: [...]} per image")
    parser.add_argument("--count", type=int, default=5000, help="predictions")
    parser.add_argument("--side", choices=SIDES, help="run this side only, here")
    chosen = parser.parse_args(arguments)
    if chosen.side:
        rows = rows_of(chosen.captions, chosen.count)
        tables = "none" if chosen.side == "ours" else "pycocoevalcap"
        print("SECONDS " + json.dumps(theirs(rows) if chosen.side == SIDES[2] else ours(rows, tables)))
        return
    for side in SIDES:
        command = [sys.executable, "-m", "benchmarks.caption_metrics", *arguments, "--side", side]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        found = json.loads(done.stdout.rpartition("SECONDS ")[2])
        parts = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
        print(f"{side}: {sum(found.values()):.1f} s ({parts})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
