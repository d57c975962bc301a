"""How many positions of a batch are padding, and what grouping and packing cost in the loader.

`python benchmarks/padding.py [--json FILE]` prints two tables:

    padding    both published runs (train_configs/chatbridge_pretrain.yaml and chatbridge_instruct.yaml): their sources,
               shares, batches, prompts and templates, with simulated texts, one token per word. Captions have a
               log-normal length with a median of 14, answers of dialogues one of 35 in one to three rounds, short
               answers one word; media tokens are those of the routes (32 per item). 8 micro-batches per step, as on 8
               ranks or with run.accumulate=8
    overhead   processor time of ChatBridge's loader on photo-like JPEGs with captions in tars, in this process, for the
               same steps with each batching in turns; of several ranks, all in turn. They share the lengths and token
               ids that grouping needs, as the ranks of one machine do; `alone`: as each on a machine of its own

Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from data import SIDE, TOKENIZER, WORDS, photo

from chatbridge.common import seeds
from chatbridge.common.safe_files import replace_text
from chatbridge.config.merge import load
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Media, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.datasets.batching import Batching
from chatbridge.datasets.builders._prompts import QUESTION, published_prompts, read_prompts
from chatbridge.datasets.builders._turn_messages import place_one_turn
from chatbridge.datasets.draw_lengths import DrawLengths
from chatbridge.datasets.loader import BatchLoader, build_loader
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.padding_share import PaddingShare, measured_padding
from chatbridge.datasets.shared_lengths import LengthTable
from chatbridge.experiment.tokens import WordTokenizer

ROOT = Path(__file__).parents[1]
RUNS = {"chatbridge_alignment": "chatbridge_pretrain", "multis": "chatbridge_instruct"}  # mixture -> its run
NUM_SLICES = 8
MEDIA = {"i": ("image",), "v": ("video",), "a": ("audio",), "va": ("video", "audio")}  # of a tag after its "t"
MEDIAN = {"caption": 14, "answer": 35, "question": 9, "word": 1}
SIGMA = 0.6  # of the logarithm of a length
MAX_ROUNDS = 3
BATCHINGS = {
    "padded": Batching(),
    "grouped, window 1": Batching("grouped", 1),
    "grouped, window 8": Batching("grouped", 8),
    "grouped, window 32": Batching("grouped", 32),
    "grouped, window 128": Batching("grouped", 128),
    "packed, rows of 512": Batching("packed", token_budget=512),
    "packed, rows of 2048": Batching("packed", token_budget=2048),
}
WANTED = {"padding": 0.05, "overhead": 0.02}


@dataclass(frozen=True)
class SourceConfig:
    """What the measuring of lengths asks a source for."""

    is_remote: bool = False


class SimulatedSource:
    """A source with the media and the prompts of its tag and texts of random lengths."""

    config = SourceConfig()

    def __init__(self, settings: dict[str, Any]):
        tag = settings.get("tag") or {"image": "ti", "video": "tv", "audio": "ta"}[settings["modality"]]
        media, _, self.task = tag.partition("-")
        self.media = tuple(Media(modality, b"") for modality in MEDIA[media[1:]])
        self.prompts = read_prompts(published_prompts()).get(tag, ())

    def __len__(self) -> int:
        return 1_000_000

    def outline(self, index: int, rng: np.random.Generator) -> Conversation:
        del index  # the stream is of the draw
        if self.task in ("conv", "det", "rea"):
            return self._dialogue(rng, rng.integers(1, MAX_ROUNDS + 1) if self.task == "conv" else 1)
        answer = _words(rng, "caption" if self.task in ("", "cap") else "word")
        if not self.prompts:
            return (user(*self.media), assistant(answer))
        prompt = self.prompts[rng.integers(len(self.prompts))].replace(QUESTION, _words(rng, "question"))
        return (user(*place_one_turn(prompt, self.media)), assistant(answer))

    def _dialogue(self, rng: np.random.Generator, rounds: int) -> Conversation:
        messages = []
        for number in range(rounds):
            question = _words(rng, "question")
            messages.append(user(*(place_one_turn(question, self.media) if not number else (question,))))
            messages.append(assistant(_words(rng, "answer")))
        return tuple(messages)


def _words(rng: np.random.Generator, kind: str) -> str:
    count = 1 if kind == "word" else max(1, round(MEDIAN[kind] * float(np.exp(rng.normal(0, SIGMA)))))
    return " ".join(["word"] * count)


def simulated_mixture(run: str) -> tuple[Mixture[Any], DrawLengths]:
    """The mixture of a published run over simulated sources, and the lengths of its draws."""
    settings = load(ROOT / "train_configs" / f"{run}.yaml")[0]
    data, seed = settings["data"], settings["run"]["seed"]
    sources = {name: SimulatedSource(one) for name, one in data["sources"].items()}
    weights = {name: one["weight"] for name, one in data["sources"].items()}
    batches = {name: one["batch"] for name, one in data["sources"].items()}
    mixture = Mixture(sources, weights, seed, max(batches.values()), data["mix"], batches=batches)
    template = data.get("template") or settings["model"]["language"]["template"]
    lengths = dict.fromkeys(("image", "video", "audio"), settings["model"]["bridges"]["perceiver"]["num_queries"])
    context = settings["model"]["language"]["architecture"]["max_position_embeddings"]
    layout = Layout(build_template(template), WordTokenizer(), lengths, data.get("max_tokens"), context)
    return mixture, DrawLengths(mixture, layout, seed)


def compare_padding(steps: int) -> dict[str, dict[str, float]]:
    """mixture -> batching -> share of positions that are padding, over the first steps of its run."""
    found: dict[str, dict[str, float]] = {}
    for name, run in RUNS.items():
        mixture, lengths = simulated_mixture(run)
        known = Remembered(lengths)
        shares: dict[str, PaddingShare] = {}
        for label, batching in BATCHINGS.items():
            shares[label] = measured_padding(mixture, known, batching, NUM_SLICES, range(steps))
        assert len({(one.conversations, one.tokens) for one in shares.values()}) == 1, "not the same conversations"
        found[name] = {label: one.share for label, one in shares.items()}
    return found


class Remembered:
    """Lengths that are simulated once per draw."""

    def __init__(self, lengths: DrawLengths):
        self.lengths = lengths
        self.found: dict[Any, int] = {}

    def __call__(self, draws: Sequence[Any]) -> list[int]:
        new = [draw for draw in draws if draw not in self.found]
        self.found.update(zip(new, self.lengths(new), strict=True))
        return [self.found[draw] for draw in draws]


def write_shard(path: Path, count: int, width: int, height: int) -> Path:
    """One tar of photo-like JPEGs with captions of log-normal length."""
    rng = np.random.default_rng(0)
    photos = [photo(rng, width, height) for _ in range(32)]
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            length = len(_words(rng, "caption").split())
            caption = " ".join(rng.choice(WORDS, size=length))
            for ending, content in (("jpg", photos[number % 32]), ("txt", caption.encode())):
                entry = tarfile.TarInfo(f"{number:06}.{ending}")
                entry.size = len(content)
                archive.addfile(entry, BytesIO(content))
    return path


def compare_overhead(steps: int, ranks: Sequence[int], samples: int) -> dict[str, dict[str, Any]]:
    """Batching and ranks -> its processor time over that of padded batches, minus 1: the median over steps, quartiles.

    The sides take turns step by step, so that a change of the machine's speed meets all of them.
    """
    kinds = {
        "padded": (Batching(), True),
        "grouped": (Batching("grouped"), True),
        "grouped, alone": (Batching("grouped"), False),
        "packed": (Batching("packed", token_budget=2048), True),
    }
    found: dict[str, dict[str, Any]] = {}
    random = seeds.stream(0, "order of the sides")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_loaders:
        tar = write_shard(Path(folder) / "photos.tar", samples, 480, 360)
        for world in ranks:
            sides: dict[str, list[Iterator[Any]]] = {}
            for kind, (batching, is_shared) in kinds.items():
                tables = [LengthTable()] * world if is_shared else [LengthTable() for _ in range(world)]
                loaders = [_loader(tar, batching, rank, world, steps, table) for rank, table in enumerate(tables)]
                sides[kind] = [iter(open_loaders.enter_context(loader)) for loader in loaders]
            spent: dict[str, list[float]] = {kind: [] for kind in kinds}
            for number in range(steps + 1):
                for kind in random.permutation(list(kinds)):  # none always follows the same one
                    seconds = _step_seconds(sides[kind])
                    if number:  # the first opens files
                        spent[kind].append(seconds)
            for kind in kinds:
                ratios = [own / padded - 1 for own, padded in zip(spent[kind], spent["padded"], strict=True)]
                found[f"{kind}, {world} rank{'s' * (world > 1)}"] = {
                    "overhead": statistics.median(ratios),
                    "quartiles": statistics.quantiles(ratios, n=4)[::2],
                    "steps": ratios,
                    "ms_per_sample": 1000 * statistics.median(spent[kind]) / 32 / world,
                }
    return found


def _step_seconds(loaders: Sequence[Iterator[Any]]) -> float:
    """Processor time of the next step of each rank."""
    gc.collect()  # of what other sides left behind
    begun = time.process_time()
    for one in loaders:
        next(one)
    return time.process_time() - begun


def _loader(tar: Path, batching: Batching, rank: int, world: int, steps: int, table: LengthTable) -> BatchLoader:
    """The loader of one rank: 4 micro-batches of 8 per step, read in this process. Ranks share the table alone."""
    from chatbridge.conversation.tokenizer import Tokenizer
    from chatbridge.datasets.builders import BUILDERS
    from chatbridge.processors.image import ImageProcessor

    builder = BUILDERS.get("web_pairs")
    source = builder(builder.Config(shards=str(tar), modality="image"), "photos")
    layout = Layout(build_template("caption"), Tokenizer.from_pretrained(TOKENIZER), {"image": 32})
    mixture = Mixture({"photos": source}, {"photos": 1.0}, seed=0, global_batch=32 * world)
    processors = {"image": ImageProcessor(SIDE, train=True, lean=True)}
    return build_loader(
        mixture, layout, processors, micro_batch=8, accumulate=4, rank=rank, world=world, stop_step=steps + 1,
        num_workers=0, seed=0, batching=batching, length_table=table,
    )  # fmt: skip


def seek_seconds(window: int) -> float:
    """Processor time until the first step of a run that resumes at step 150,000 of the first published run."""
    mixture, lengths = simulated_mixture("chatbridge_pretrain")
    from chatbridge.datasets.order.grouping import GroupedOrder

    begun = time.process_time()
    GroupedOrder(mixture, lengths, NUM_SLICES, window)(150_000)
    return time.process_time() - begun


def show(found: dict[str, Any]) -> None:
    print("\n| batching | " + " | ".join(RUNS) + " |\n|---|" + "---|" * len(RUNS))
    for label in BATCHINGS:
        print(f"| {label} | " + " | ".join(f"{found['padding'][name][label]:.1%}" for name in RUNS) + " |")
    print("\n| loader | ms per sample | overhead, median over steps | quartiles |\n|---|---|---|---|")
    for label, one in found.get("overhead", {}).items():
        low, high = one["quartiles"]
        print(f"| {label} | {one['ms_per_sample']:.2f} | {one['overhead']:+.1%} | {low:+.1%} to {high:+.1%} |")
    print("\n| window | seek to step 150,000 |\n|---|---|")
    for window, seconds in found["seek_s"].items():
        print(f"| {window} | {1000 * seconds:.0f} ms |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=512, help="of each published run")
    parser.add_argument("--loader-steps", type=int, default=40, help="of the overhead; 0: not measured")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--samples", type=int, default=4000, help="photos in the tar")
    parser.add_argument("--json", type=Path, help="write all figures there")
    asked = parser.parse_args()
    widest = max(one.window for one in BATCHINGS.values())
    if asked.steps % widest:
        parser.error(f"--steps is {asked.steps}, expected a multiple of the widest window, {widest}")
    seeds.seed_everything(0)
    found: dict[str, Any] = {"padding": compare_padding(asked.steps), "wanted": WANTED}
    found["seek_s"] = {window: seek_seconds(window) for window in (1, 32)}
    if asked.loader_steps:
        found["overhead"] = compare_overhead(asked.loader_steps, asked.ranks, asked.samples)
    show(found)
    if asked.json:
        replace_text(asked.json, json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
