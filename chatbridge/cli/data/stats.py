"""`chatbridge data stats CFG`: lengths of the token sequences, and the composition of a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from chatbridge.cli.arguments import add_config, whole
from chatbridge.cli.data.measure import Lengths, measure, summary
from chatbridge.cli.data.run_shares import source_shares, step_averages
from chatbridge.cli.data.sample import mixture_of
from chatbridge.cli.data.stats_tables import Stats, stats_text
from chatbridge.cli.data.terminal import Paint
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.experiment.media_plan import MediaPlan, plan_media
from chatbridge.experiment.partial_data import PartialData, Source, read_data
from chatbridge.experiment.tokens import read_tokens
from chatbridge.runners.config import ranks_planned

SAMPLE = 400  # default number of samples measured per source


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the token sequences of every source and how many are cut, then the composition of the run: shares of
    conversations and of supervised tokens, passes over each source, padding. Annotations are read, media are not."""
    parser = argparse.ArgumentParser(prog="chatbridge data stats", description=main.__doc__)
    add_config(parser)
    parser.add_argument("--sample", type=whole(1), default=SAMPLE, metavar="N",
                        help="samples measured per source, spread evenly (default: %(default)s)")  # fmt: skip
    parser.add_argument("--full", action="store_true", help="measure every sample")
    parser.add_argument("--ranks", type=whole(1), default=ranks_planned(), metavar="N",
                        help="processes of the run, which multiply the batch (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    given = parser.parse_args(arguments)
    found = read_data(given.config, given.options)
    stats = gather(found, None if given.full else given.sample, given.ranks)
    if given.json:
        print(json.dumps(as_json(stats), indent=1, ensure_ascii=False))
    else:
        print(stats_text(stats, Paint()))
    if found.problems:
        print(f"\n{ConfigError(found.problems)}", file=sys.stderr)
    return 2 if found.problems else 0


def gather(found: PartialData, count: int | None, ranks: int) -> Stats:
    """Measure every source that could be opened, then the composition of the run."""
    media = plan_media(found)
    tokens = read_tokens(found, media, evaluation=not found.is_training)
    stats = Stats(found, tokens.template, tokens.unit, [*media.notes, *([tokens.note] if tokens.note else [])])
    stats.lengths = _measured(found, media, found.trained, count, stats)
    stats.questions = _measured(found, media, found.asked, count, stats)
    if not found.trained or not any(map(len, stats.lengths.values())):
        return stats
    if found.run is None or found.data is None:
        stats.notes.append("the composition of the run is unknown: data or run is missing or has mistakes")
        return stats
    try:
        mixture = mixture_of(found, ranks)
    except (ConfigError, DataError) as error:
        stats.notes.append(f"the composition of the run is unknown: {error}")
        return stats
    if any(at.startswith("data.") for at in found.broken):
        stats.notes.append("shares refer to the sources that could be opened")
    stats.mix = found.data.mix
    stats.shares = source_shares(mixture, stats.lengths, found.run.max_steps, found.data.stream_weights)
    stats.averages = step_averages(mixture, stats.lengths, found.run, ranks)
    return stats


def _measured(
    found: PartialData, media: MediaPlan, sources: Sequence[Source], count: int | None, stats: Stats
) -> dict[str, Lengths]:
    """Return source name -> lengths; empty without a layout, with a note that gives the reason."""
    if not sources:
        return {}
    from tqdm import tqdm

    tokens = read_tokens(found, media, evaluation=sources[0].task is not None)
    if tokens.layout is None:
        stats.notes.append(tokens.note)
        return {}
    seed = found.run.seed if found.run is not None else 0
    progress = tqdm(sources, unit=" sources", desc="measuring", disable=None, file=sys.stderr, leave=False)
    return {source.name: measure(source, tokens.layout, count, seed) for source in progress}


def as_json(stats: Stats) -> dict[str, Any]:
    """Return the results as plain values."""
    found = stats.found
    report: dict[str, Any] = {
        "config": str(found.path),
        "template": stats.template,
        "unit": stats.unit,
        "notes": stats.notes,
        "sources": {source.name: _source_json(stats, source) for source in found.trained},
        "tasks": {source.name: _task_json(stats.questions.get(source.name), source) for source in found.asked},
        "problems": [f"{one.path}: {one.message}" for one in found.problems],
    }
    if stats.averages is not None and found.run is not None:
        step = {name: round(value, 1) for name, value in asdict(stats.averages).items()}
        report["run"] = {"steps": found.run.max_steps, "mix": stats.mix, "per_step": step,
                         "padding": round(stats.averages.padding, 4)}  # fmt: skip
    return report


def _source_json(stats: Stats, source: Source) -> dict[str, Any]:
    size, lengths = len(source.dataset), stats.lengths.get(source.name)
    entry: dict[str, Any] = {"builder": source.builder, "samples": size}
    if lengths is not None:
        entry |= _lengths_json(lengths)
        entry["tokens"] = round(size * entry["length"]["mean"])
    if stats.shares is not None:
        entry["run"] = {name: round(value, 6) for name, value in asdict(stats.shares[source.name]).items()}
    return entry


def _lengths_json(lengths: Lengths) -> dict[str, Any]:
    return {
        "measured": len(lengths),
        "unusable": len(lengths.unusable),
        "length": summary(lengths.total),
        "media": summary(lengths.media),
        "text": summary(lengths.total - lengths.media),
        "supervised": summary(lengths.supervised),
        "cut_sequences": _share_cut(lengths),
    }


def _task_json(lengths: Lengths | None, source: Source) -> dict[str, Any]:
    entry: dict[str, Any] = {"builder": source.builder, "questions": len(source.dataset)}
    if lengths is None or source.task is None:
        return entry
    longer = float((lengths.answer > source.task.max_new_tokens).mean()) if len(lengths) else 0.0
    return entry | {
        "measured": len(lengths),
        "unusable": len(lengths.unusable),
        "prompt": summary(lengths.total),
        "media": summary(lengths.media),
        "answer": summary(lengths.answer),
        "answers_above_max_new_tokens": round(longer, 4),
        "prompts_short_of_room": _share_cut(lengths),
    }


def _share_cut(lengths: Lengths) -> float:
    return round(float((lengths.cut > 0).mean()), 4) if len(lengths) else 0.0
