"""Ask a language model for a conversation over the images of each sample. Run it again to resume.

    python -m dataset_prep.textbind ask data/textbind/samples.jsonl --out data/textbind/raw.jsonl --model gpt-4o \\
        --examples data/textbind/examples.jsonl --price 2.5 10 --budget 20

Any server of OpenAI's protocol can be asked (--base-url); the key is read from the environment only. The model reads
the captions of the images, --num-examples good conversations drawn from --examples, and the instructions of --prompt
(a text file with {examples} and {images}; without it the shipped ones, whose wording is not that of the paper).

A line of --out is the raw record that `clean` reads, with the sample's id, the examples, the model and its usage. It is
written as soon as the reply arrives; replies are also kept in a cache by request, so no request is paid twice. Replies
that are not conversations are kept, counted, and marked by `fault`; --retry-faulty asks again and moves them to
RAW.faulty.jsonl.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chatbridge.cli.review.client_options import add_client, client_of, client_settings, price_of
from chatbridge.common.errors import ConfigError, DataError, Problem, some
from chatbridge.review.json_lines_file import JsonLinesFile, Row, without_repeats
from chatbridge.review.judge_client import JudgeSettings
from chatbridge.review.parallel_requests import run_requests
from chatbridge.review.reply_cache import Reply, ReplyCache
from chatbridge.review.usage import Price, Usage
from dataset_prep.common import arguments
from dataset_prep.textbind.image_tags import RawRecord
from dataset_prep.textbind.raw_file import FIELDS, Order, fault_of, faulty_file, kept_rows, row_of, summary
from dataset_prep.textbind.record_files import read_records
from dataset_prep.textbind.request_text import (
    SHIPPED,
    SYSTEM,
    choose_examples,
    read_examples,
    read_prompt,
    request_text,
)

PARAMETERS = {"temperature": 0.8, "max_tokens": 1536}
LETTERS_PER_TOKEN = 4  # of English text, for the estimate of --check
MOST_SHOWN = 20  # failures that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("samples", type=arguments.existing_file, metavar="SAMPLES.jsonl", help="of `sample`")
    add("--out", type=Path, required=True, metavar="RAW.jsonl", help="a line per conversation")
    add("--examples", type=arguments.existing_file, nargs="+", default=[SHIPPED], metavar="FILE",
        help="pools of good conversations; `rate import` extends one (default: the shipped ones)")  # fmt: skip
    add("--num-examples", type=arguments.count, default=3, metavar="N", help="per request (default: 3)")
    add("--prompt", type=arguments.existing_file, metavar="FILE.txt", help="instructions with {examples}, {images}")
    add("--system", default=SYSTEM, metavar="TEXT", help="system message (default: %(default)r)")
    add("--seed", type=int, default=0, help="of the choice of examples (default: 0)")
    add("--limit", type=arguments.positive, metavar="N", help="only the first N samples")
    add("--retry-faulty", action="store_true", help="ask again where a reply is not a conversation with an image")
    add("--overwrite", action="store_true", help="replace the conversations of --out")
    add("--check", action="store_true", help="print the plan and the first request; ask nothing")
    in_group = add_client(parser, "the language model", "gpt-4o; the paper used gpt-4", PARAMETERS)
    in_group("--cache", type=Path, metavar="DIR", help="of replies (default: reply_cache beside --out)")


def run(asked: argparse.Namespace) -> int:
    """0: every sample has a line; 1: some requests failed, the same command repeats them."""
    settings = _settings(asked)
    orders = _orders(asked)
    file, cache = JsonLinesFile(asked.out, FIELDS), ReplyCache(asked.cache or asked.out.parent / "reply_cache")
    if asked.check:
        kept = {} if asked.overwrite else kept_rows(file.rows(), orders, file.path, asked.retry_faulty)
        print(_plan([order for order in orders if order.id not in kept], len(orders), settings, cache, price_of(asked)))
        return 0
    kept = _prepared(file, orders, asked)
    left = {order.id: order for order in orders if order.id not in kept}
    print(f"{len(orders):,} samples, {len(orders) - len(left):,} have a conversation already; "
          f"{settings.called}: {settings.model} at {settings.server}", flush=True)  # fmt: skip
    failed = _ask_all(left, settings, cache, file, asked) if left else {}
    numbers = {order.id: number for number, order in enumerate(orders)}
    rows = file.rewrite(lambda now: without_repeats(now, numbers, "id"))
    print(summary(file, [row for row in rows if str(row["id"]) in numbers], len(orders)))
    for name in list(failed)[:MOST_SHOWN]:
        print(f"sample {name} has no conversation: {failed[name]}", file=sys.stderr)
    return 1 if failed else 0


def _settings(asked: argparse.Namespace) -> JudgeSettings:
    """raises ConfigError with all mistakes of the options"""
    problems: list[Problem] = []
    defaults = JudgeSettings(model="", parameters=PARAMETERS, system=asked.system, called="the language model")
    settings = client_settings(asked, defaults, problems)
    if asked.out.exists() and any(asked.out.samefile(path) for path in (asked.samples, *asked.examples)):
        problems.append(Problem("--out", f"{asked.out} is a file that the command reads", hint="choose another"))
    if asked.overwrite and asked.retry_faulty:
        problems.append(Problem("--retry-faulty", "has no use with --overwrite, which asks for all"))
    if problems:
        raise ConfigError(problems)
    return settings


def _orders(asked: argparse.Namespace) -> list[Order]:
    """raises DataError for a sample or an example that cannot be used"""
    samples = read_records(asked.samples)[: asked.limit]
    examples = read_examples(asked.examples) if asked.num_examples else []
    prompt, orders = read_prompt(asked.prompt), []
    for number, sample in enumerate(samples, start=1):
        if not str(sample.get("id") or ""):
            raise DataError(f"{asked.samples}: sample {number} has no id; make the file with `sample`")
        try:
            captions = RawRecord.of({**sample, "response": ""}).captions
        except ValueError as error:
            raise DataError(f"{asked.samples}: sample {number} cannot be used: {error}") from None
        chosen = choose_examples(examples, asked.num_examples, asked.seed, str(sample["id"]))
        orders.append(Order(sample, tuple(one.id for one in chosen), request_text(prompt, chosen, captions)))
    repeated = [name for name, times in Counter(order.id for order in orders).items() if times > 1]
    if repeated:
        raise DataError(f"{asked.samples}: the id {some(repeated)} occurs more than once")
    return orders


def _prepared(file: JsonLinesFile, orders: Sequence[Order], asked: argparse.Namespace) -> dict[str, Row]:
    """The lines that stay, after the others of these samples are removed."""
    own = {order.id for order in orders}
    if asked.overwrite:
        file.rewrite(lambda now: [row for row in now if str(row["id"]) not in own], skip_others=True)
        return {}
    kept = kept_rows(file.rows(), orders, file.path, asked.retry_faulty)
    faulty = [row for row in file.rows() if str(row["id"]) in own and str(row["id"]) not in kept]
    for row in faulty:  # before they are removed, so that a kill loses none
        faulty_file(file.path).append(row)
    if faulty:
        file.rewrite(lambda now: [row for row in now if str(row["id"]) not in own or str(row["id"]) in kept])
    return kept


def _ask_all(
    left: Mapping[str, Order],
    settings: JudgeSettings,
    cache: ReplyCache,
    file: JsonLinesFile,
    asked: argparse.Namespace,
) -> dict[str, str]:
    """id -> reason of the samples whose request failed; the others have a line."""
    client, usage = client_of(asked, settings, cache), Usage(price_of(asked), asked.budget)

    def one(order: Order) -> None:
        usage.refuse_if_spent()
        request = settings.request(order.text)
        reply, is_cached = cache.fetch(settings.key(order.text), request, lambda: client.ask(request), _usable(asked))
        usage.add(reply, is_cached)
        file.append(row_of(order, reply, settings))

    try:
        return run_requests(left, one, asked.threads, client.stop)
    finally:
        print(usage, flush=True)


def _usable(asked: argparse.Namespace) -> Callable[[Reply], bool]:
    """Which cached replies are used."""
    if asked.fresh:
        return lambda reply: False
    if asked.retry_faulty:
        return lambda reply: fault_of(reply) is None
    return lambda reply: True


def _plan(left: Sequence[Order], total: int, settings: JudgeSettings, cache: ReplyCache, price: Price | None) -> str:
    new = [order for order in left if cache.get(settings.key(order.text)) is None]
    prompt = sum(len(order.text) + len(settings.system) for order in new) // LETTERS_PER_TOKEN
    lines = [f"model    {settings.model} at {settings.server}",
             f"samples  {total:,}, {len(left):,} to do, {len(left) - len(new):,} of them from the cache",
             f"tokens   about {prompt:,} of prompts ({LETTERS_PER_TOKEN} letters each)"]  # fmt: skip
    longest = settings.parameters.get("max_tokens", settings.parameters.get("max_completion_tokens"))
    if price is not None and isinstance(longest, int):
        most = price.of(prompt, longest * len(new))
        lines.append(f"cost     about ${price.of(prompt, 0):.2f} for prompts, at most ${most:.2f} with replies")
    return "\n".join([*lines, *(["", "first request:", new[0].text.rstrip()] if new else [])])
