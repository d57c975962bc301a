"""`chatbridge data stats CFG`: how long the rows are, and what a run sees of each source."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.cli.data.budget import Batches, Part, batches, parts
from chatbridge.cli.data.measure import Lengths, measure, summary
from chatbridge.cli.data.sample import mixture_of
from chatbridge.experiment.media_plan import MediaPlan, plan_media
from chatbridge.cli.data.stats_text import text
from chatbridge.cli.data.terminal import Paint
from chatbridge.experiment.tokens import read_tokens
from chatbridge.cli.arguments import add_config, whole
from chatbridge.experiment.partial_data import OpenedData, Source, read_data
from chatbridge.runners.config import ranks_planned

SAMPLE = 400  # samples measured of every source unless asked otherwise


@dataclass
class Stats:
    """Everything that `stats` says. Counts are in `unit`: tokens, or words where there is no tokenizer yet.

    parts, batches   None when the file does not say how long the run is, or has mistakes in data or run
    """

    found: OpenedData
    template: str
    unit: str
    notes: list[str] = field(default_factory=list)
    lengths: dict[str, Lengths] = field(default_factory=dict)
    questions: dict[str, Lengths] = field(default_factory=dict)
    parts: dict[str, Part] | None = None
    batches: Batches | None = None
    mix: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Lengths of the rows of every source in tokens, how many are cut, and what the run makes of them: shares of
    conversations and of learned tokens, passes over each source, padding. Annotations are read, media are not."""
    parser = argparse.ArgumentParser(prog="chatbridge data stats", description=main.__doc__)
    add_config(parser)
    parser.add_argument("--sample", type=whole(1), default=SAMPLE, metavar="N",
                        help="samples measured of each source, spread over it (default: %(default)s)")  # fmt: skip
    parser.add_argument("--full", action="store_true", help="measure every sample")
    parser.add_argument("--ranks", type=whole(1), default=ranks_planned(), metavar="N",
                        help="processes of the run: they make the global batch (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    given = parser.parse_args(arguments)
    found = read_data(given.config, given.options)
    stats = gather(found, None if given.full else given.sample, given.ranks)
    if given.json:
        print(json.dumps(as_json(stats), indent=1, ensure_ascii=False))
    else:
        print(text(stats, Paint()))
    if found.problems:
        print(f"\n{ConfigError(found.problems)}", file=sys.stderr)
    return 2 if found.problems else 0


def gather(found: OpenedData, count: int | None, ranks: int) -> Stats:
    """Measure every source that could be opened, then count the run."""
    senses = plan_media(found)
    tokens = read_tokens(found, senses, evaluation=not found.is_training)
    stats = Stats(found, tokens.template, tokens.unit, [*senses.notes, *([tokens.note] if tokens.note else [])])
    stats.lengths = _measured(found, senses, found.trained, count, stats)
    stats.questions = _measured(found, senses, found.asked, count, stats)
    if not found.trained or not any(map(len, stats.lengths.values())):
        return stats
    if found.run is None or found.data is None:
        stats.notes.append("what a run sees is not counted: data or run is missing or has mistakes")
        return stats
    try:
        mixture = mixture_of(found, ranks)
    except (ConfigError, DataError) as error:
        stats.notes.append(f"what a run sees is not counted: {error}")
        return stats
    if any(at.startswith("data.") for at in found.broken):
        stats.notes.append("shares are those of the sources that could be opened")
    stats.mix = found.data.mix
    stats.parts = parts(mixture, stats.lengths, found.run.max_steps)
    stats.batches = batches(mixture, stats.lengths, found.run, ranks)
    return stats


def _measured(
    found: OpenedData, senses: MediaPlan, sources: Sequence[Source], count: int | None, stats: Stats
) -> dict[str, Lengths]:
    """name -> lengths; empty when rows cannot be laid out, which the notes then say."""
    if not sources:
        return {}
    from tqdm import tqdm

    tokens = read_tokens(found, senses, evaluation=sources[0].task is not None)
    if tokens.layout is None:
        stats.notes.append(tokens.note)
        return {}
    seed = found.run.seed if found.run is not None else 0
    watched = tqdm(sources, unit=" sources", desc="measuring", disable=None, file=sys.stderr, leave=False)
    return {source.name: measure(source, tokens.layout, count, seed) for source in watched}


def as_json(stats: Stats) -> dict[str, Any]:
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
    if stats.batches is not None and found.run is not None:
        step = {name: round(value, 1) for name, value in asdict(stats.batches).items()}
        report["run"] = {"steps": found.run.max_steps, "mix": stats.mix, "per_step": step,
                         "padding": round(stats.batches.padding, 4)}  # fmt: skip
    return report


def _source_json(stats: Stats, source: Source) -> dict[str, Any]:
    size, lengths = len(source.dataset), stats.lengths.get(source.name)
    entry: dict[str, Any] = {"builder": source.builder, "samples": size}
    if lengths is not None:
        entry |= _lengths_json(lengths)
        entry["tokens"] = round(size * entry["row"]["mean"])
    if stats.parts is not None:
        entry["run"] = {name: round(value, 6) for name, value in asdict(stats.parts[source.name]).items()}
    return entry


def _lengths_json(lengths: Lengths) -> dict[str, Any]:
    return {
        "measured": len(lengths),
        "unusable": len(lengths.unusable),
        "row": summary(lengths.row),
        "media": summary(lengths.media),
        "text": summary(lengths.row - lengths.media),
        "learned": summary(lengths.learned),
        "cut_rows": round(float((lengths.cut > 0).mean()), 4) if len(lengths) else 0.0,
    }


def _task_json(lengths: Lengths | None, source: Source) -> dict[str, Any]:
    entry: dict[str, Any] = {"builder": source.builder, "questions": len(source.dataset)}
    if lengths is None or source.task is None:
        return entry
    longer = float((lengths.answer > source.task.max_new_tokens).mean()) if len(lengths) else 0.0
    return entry | {
        "measured": len(lengths),
        "unusable": len(lengths.unusable),
        "prompt": summary(lengths.row),
        "media": summary(lengths.media),
        "answer": summary(lengths.answer),
        "answers_above_max_new_tokens": round(longer, 4),
        "prompts_short_of_room": round(float((lengths.cut > 0).mean()), 4) if len(lengths) else 0.0,
    }
