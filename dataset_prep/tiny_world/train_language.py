"""Train the tiny language model on text about the world and save it as an ordinary Hugging Face folder.

A Llama of about 0.9 M parameters with a byte-pair tokenizer of its own. Two lessons: first it restates one description
(a heap of notes, a sentence) in other words, which teaches it within a minute to look things up in its context; then
dialogues in the `vicuna_v0` format follow, with one description or with two (what is seen and what is heard).
The description's embeddings are blurred a little while it learns, so that the model reads meanings there, not exact
words: a bridge will write in that place later.

The text speaks of all combinations of attributes; only media hold some back.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import stream
from chatbridge.conversation.messages import Conversation, media_parts
from chatbridge.conversation.spans import MediaSpan, Span
from chatbridge.conversation.templates import TEMPLATES, Template
from chatbridge.conversation.tokenizer import Tokenizer
from dataset_prep.tiny_world import corpus, world

DESCRIBED, PLAIN, ANSWER = 0, 1, 2  # what a token belongs to
LOSS_WEIGHTS = (0.05, 0.1, 1.0)
SCENES = {m: [*world.all_scenes(m, held_out=False), *world.all_scenes(m, held_out=True)] for m in world.MODALITIES}
TOKENS_PER_STEP = 1500
MAX_TURNS = 4


class Lesson(NamedTuple):
    """How many steps, and how often a step shows which kind of document."""

    steps: int
    restated: float
    one_medium: float
    two_media: float

    def documents(self, rng: np.random.Generator) -> list[corpus.Document]:
        """The documents of one step: alike in kind and length, so that little of a batch is padding."""
        kind = ("restated", "one medium", "two media")[rng.choice(3, p=self[1:])]
        turns = int(rng.integers(1, MAX_TURNS + 1))
        length = {"restated": 22, "one medium": 24 + 17 * turns, "two media": 40 + 17 * turns}[kind]
        return corpus.documents(SCENES, kind, turns, TOKENS_PER_STEP // length, rng)


def templates() -> dict[str, Template]:
    return {name: TEMPLATES.get(name)(TEMPLATES.get(name).Config()) for name in (corpus.CAPTION, corpus.CHAT)}


# ---------------------------------------------------------------- tokenizer


def train_tokenizer(folder: Path, seed: int, vocab_size: int = 640) -> Tokenizer:
    """Byte-pair tokenizer on the corpus; words of the world become one token each."""
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE(unk_token="<unk>"))
    marks = pre_tokenizers.Split(Regex(r"###|\n|[.,:?]"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([marks, pre_tokenizers.Metaspace(prepend_scheme="first")])
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=_letters(), show_progress=False
    )
    backend.train_from_iterator(_segments(stream(seed, "tokenizer"), 1000), trainer)
    marks_of = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **marks_of).save_pretrained(str(folder))
    return Tokenizer.from_pretrained(folder)


def _letters() -> list[str]:
    """So that a visitor's own words can at least be spelled."""
    return [chr(code) for code in range(33, 127)] + ["▁", "\n"]


def _segments(rng: np.random.Generator, count: int) -> Iterator[str]:
    formats, kinds = templates(), ("restated", "one medium", "two media")
    for name, conversation in chain(*(corpus.documents(SCENES, kind, 3, count, rng) for kind in kinds)):
        yield from (str(item.ref) for item in media_parts(conversation))
        yield from _written(formats[name], conversation)


def _written(template: Template, conversation: Conversation) -> list[str]:
    """The text segments around the media, as the template cuts them."""
    segments: list[str] = []

    def note(text: str) -> tuple[int, ...]:
        segments.append(text)
        return ()

    template.spans(conversation, note, dict.fromkeys(world.MODALITIES, 1))
    return segments


# ---------------------------------------------------------------- documents as rows


class Reader:
    """Documents to rows of ids, with what each id belongs to."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.templates = templates()
        self._ids: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        if text not in self._ids:
            self._ids[text] = tuple(self.tokenizer.encode(text))
        return self._ids[text]

    def row(self, document: corpus.Document) -> tuple[list[int], list[int]]:
        """ids and their kinds; the descriptions stand where media would."""
        name, conversation = document
        lengths = dict.fromkeys(world.MODALITIES, 1)
        spans = self.templates[name].spans(conversation, self.encode, lengths)
        ids, kinds = [self.tokenizer.bos_id or 0], [PLAIN]
        for span in spans:
            content, kind = self._content(span, conversation)
            ids += content
            kinds += [kind] * len(content)
        return ids, kinds

    def _content(self, span: Span, conversation: Conversation) -> tuple[tuple[int, ...], int]:
        if isinstance(span, MediaSpan):
            return self.encode(str(list(media_parts(conversation))[span.slot].ref)), DESCRIBED
        return span.ids, ANSWER if span.supervised else PLAIN

    def batch(self, documents: list[corpus.Document]) -> tuple[Tensor, Tensor]:
        """ids int64[B, L] and kinds int64[B, L], -1 behind the end of a row."""
        rows = [self.row(document) for document in documents]
        length = max(len(ids) for ids, _ in rows)
        pad = self.tokenizer.pad_id
        ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows])
        return ids, torch.tensor([kinds + [-1] * (length - len(kinds)) for _, kinds in rows])


# ---------------------------------------------------------------- training


def new_model(vocab_size: int, width: int, depth: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": depth}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512}
    marks = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": True}
    start = {"initializer_range": 0.06}  # 0.02 is made for widths of thousands; here it learns rules of two words late
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes, **heads, **marks, **start))


def losses(model: Any, ids: Tensor, kinds: Tensor, blur: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each next token, float[B, L - 1], and what that token belongs to."""
    embeds = model.get_input_embeddings()(ids)
    if blur:
        embeds = torch.where((kinds == DESCRIBED)[..., None], _blurred(embeds, model, blur), embeds)
    logits = model(inputs_embeds=embeds).logits[:, :-1]
    loss = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return loss, kinds[:, 1:]


def _blurred(embeds: Tensor, model: Any, blur: float) -> Tensor:
    """Each embedding mixed with that of a random word (up to `blur`) and with a little noise."""
    table = model.get_input_embeddings().weight
    share = torch.rand(embeds.shape[:2])[..., None] * blur
    other = table[torch.randint(len(table), embeds.shape[:2])]
    noise = 0.1 * blur * embeds.detach().std() * torch.randn_like(embeds)
    return (1 - share) * embeds + share * other + noise


def train(model: Any, reader: Reader, lessons: list[Lesson], *, lr: float, blur: float, seed: int) -> None:
    """Go through the lessons, one cosine over all of them; prints the loss now and then."""
    rng, total, started = stream(seed, "language"), sum(lesson.steps for lesson in lessons), time.monotonic()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    weights, step = torch.tensor([*LOSS_WEIGHTS, 0.0]), 0  # the last one is for kind -1
    model.train()
    for lesson in lessons:
        for _ in range(lesson.steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / 50) * (0.525 + 0.475 * math.cos(math.pi * step / total))
            loss, kinds = losses(model, *reader.batch(lesson.documents(rng)), blur)
            weighted = (loss * weights[kinds]).sum() / weights[kinds].sum()
            optimizer.zero_grad()
            weighted.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 50 == 0 or step == total:
                print(f"language {step}/{total} loss {weighted:.3f} {time.monotonic() - started:.0f} s", flush=True)
    model.eval()


# ---------------------------------------------------------------- examination


@torch.no_grad()
def examine(model: Any, reader: Reader, seed: int, count: int = 100) -> dict[str, float]:
    """Share of right answers per kind of question, about descriptions in words: what a bridge can reach at best."""
    rng = stream(seed, "language examination")
    kinds: dict[str, Callable[[], corpus.Document]] = {
        **{modality: lambda m=modality: corpus.one_question(SCENES, m, rng) for modality in world.MODALITIES},
        **{kind: lambda k=kind: corpus.one_joint_question(SCENES, k, rng) for kind in world.JOINT_QUESTIONS},
    }
    return {kind: _share_right(model, reader, [make() for _ in range(count)]) for kind, make in kinds.items()}


def _share_right(model: Any, reader: Reader, documents: list[corpus.Document]) -> float:
    ids, kinds = reader.batch(documents)
    guessed = model(ids).logits[:, :-1].argmax(-1)
    ends = ids[:, 1:] == reader.encode("\n")[-1]  # whether a dialogue goes on is anybody's guess
    right = (guessed == ids[:, 1:]) | (kinds[:, 1:] != ANSWER) | (ends.cumsum(1) > 0)
    return float(right.all(1).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/tiny"), help="the folder of the tiny world")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs=2, default=(100, 750), help="steps of the two lessons")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    folder = arguments.root / "language"
    reader = Reader(train_tokenizer(folder, arguments.seed))
    model = new_model(reader.tokenizer.vocab_size, arguments.width, arguments.depth)
    first, second = arguments.steps
    lessons = [Lesson(first, 1.0, 0.0, 0.0), Lesson(second, 0.2, 0.4, 0.4)]
    train(model, reader, lessons, lr=3e-3, blur=0.4, seed=arguments.seed)
    marks = examine(model, reader, arguments.seed)
    model.save_pretrained(str(folder))
    replace_text(folder / "examination.json", json.dumps(marks, indent=1))
    print(f"{folder}: right answers {json.dumps(marks)}")


if __name__ == "__main__":
    main()
