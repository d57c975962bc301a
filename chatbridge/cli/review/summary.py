"""`chatbridge review summary REVIEWS.jsonl ...`: mean scores per category, read strictly and tolerantly."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from chatbridge.common.safe_files import replace_text
from chatbridge.review.summary import Review, means, read_reviews, released_summary, summary_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the means of review files; returns 1 when a file has no readable review.

    raises   DataError for a file that holds no reviews
    """
    args = _parser().parse_args(arguments)
    found = {path: read_reviews(path) for path in args.reviews}
    for number, (path, reviews) in enumerate(found.items()):
        if args.released:
            _print_released(path, reviews)
        else:
            print(
                f"{path}: {len(reviews):,} reviews\n{summary_text(reviews)}",
                end="\n\n"[: 2 - (number == len(found) - 1)],
            )
    if args.json is not None:
        content = {
            str(path): {name: asdict(one) for name, one in means(reviews).items()} for path, reviews in found.items()
        }
        replace_text(args.json, json.dumps(content, indent=1) + "\n")
    return 0 if all(any(one.tolerant or one.strict for one in reviews) for reviews in found.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatbridge review summary",
        description="Mean scores per category. Reviews whose scores cannot be read are listed and are in no mean.",
        epilog="exit code: 0; 1 a file has no readable review; 2 a file cannot be used",
    )
    add = parser.add_argument
    add("reviews", type=Path, nargs="+", metavar="REVIEWS.jsonl",
        help="of `chatbridge review judge`, or of LLaVA's and ChatBind's own script")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    add("--released", action="store_true",
        help="print what the released script prints, which averages unreadable reviews in as -1: only for comparison "
        "with published numbers")  # fmt: skip
    return parser


def _print_released(path: Path, reviews: Sequence[Review]) -> None:
    print(released_summary(reviews, path.stem), end="")
    unreadable = sum(one.strict is None for one in reviews)
    if unreadable:
        print(f"{path}: {unreadable:,} of {len(reviews):,} reviews are averaged in as -1", file=sys.stderr)
