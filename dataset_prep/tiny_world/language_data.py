"""The tokenizer of the tiny language model, and its training documents as token ids."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.seeds import stream
from chatbridge.conversation.messages import Conversation, media_parts
from chatbridge.conversation.spans import MediaSpan, Span
from chatbridge.conversation.templates import TEMPLATES, Template
from chatbridge.conversation.tokenizer import Tokenizer
from dataset_prep.tiny_world import corpus, world

DESCRIPTION, PLAIN, ANSWER = 0, 1, 2  # kinds of tokens
PADDING = -1
SCENES = {m: [*world.all_scenes(m, held_out=False), *world.all_scenes(m, held_out=True)] for m in world.MODALITIES}


def templates() -> dict[str, Template]:
    return {name: TEMPLATES.get(name)(TEMPLATES.get(name).Config()) for name in (corpus.CAPTION, corpus.CHAT)}


def train_tokenizer(folder: Path, seed: int, vocab_size: int = 640) -> Tokenizer:
    """A byte-pair tokenizer trained on the corpus; each word of the corpus becomes one token."""
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE(unk_token="<unk>"))
    punctuation = pre_tokenizers.Split(Regex(r"###|\n|[.,:?]"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([punctuation, pre_tokenizers.Metaspace(prepend_scheme="first")])
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=_letters(), show_progress=False
    )
    backend.train_from_iterator(_segments(stream(seed, "tokenizer"), 1000), trainer)
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(str(folder))
    return Tokenizer.from_pretrained(folder)


def _letters() -> list[str]:
    """Single characters, so that the tokenizer can encode words that are not in the corpus."""
    return [chr(code) for code in range(33, 127)] + ["▁", "\n"]


def _segments(rng: np.random.Generator, count: int) -> Iterator[str]:
    formats = templates()
    for name, conversation in chain(*(corpus.documents(SCENES, kind, 3, count, rng) for kind in corpus.KINDS)):
        yield from (str(item.ref) for item in media_parts(conversation))
        yield from _written(formats[name], conversation)


def _written(template: Template, conversation: Conversation) -> list[str]:
    """The text segments around the media, as the template splits them."""
    segments: list[str] = []

    def note(text: str) -> tuple[int, ...]:
        segments.append(text)
        return ()

    template.spans(conversation, note, dict.fromkeys(world.MODALITIES, 1))
    return segments


class DocumentEncoder:
    """Documents as token ids, with the kind of each token."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.templates = templates()
        self._ids: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        if text not in self._ids:
            self._ids[text] = tuple(self.tokenizer.encode(text))
        return self._ids[text]

    def tokens(self, document: corpus.Document) -> tuple[list[int], list[int]]:
        """ids and their kinds; the descriptions have the positions of media."""
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
            return self.encode(str(list(media_parts(conversation))[span.slot].ref)), DESCRIPTION
        return span.ids, ANSWER if span.supervised else PLAIN

    def batch(self, documents: list[corpus.Document]) -> tuple[Tensor, Tensor]:
        """Documents padded to one length.

        returns   ids int64[B, L] and kinds int64[B, L], which is PADDING after the end of a document
        """
        encoded = [self.tokens(document) for document in documents]
        length = max(len(ids) for ids, _ in encoded)
        pad = self.tokenizer.pad_id
        ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in encoded])
        return ids, torch.tensor([kinds + [PADDING] * (length - len(kinds)) for _, kinds in encoded])
