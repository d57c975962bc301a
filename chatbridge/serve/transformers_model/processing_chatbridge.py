"""The processor of an exported model: messages and media files in, the model's inputs out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, media_parts
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.conversation.token_sequence import TokenSequence
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.serve.transformers_model.chat_messages import conversation_of, is_batch
from chatbridge.serve.transformers_model.media_settings import TYPE_IDS, MediaSettings, input_name, type_ids

IGNORED = -100  # a label that the loss leaves out


class ChatBridgeProcessor(ProcessorMixin):
    """Tokenizer, conversation template, and what the encoders read media with.

    settings   what `chatbridge export --hf` writes into processor_config.json: media, template, media_lengths,
               slot_ids, num_rows, added_tokens, context_length, end_ids
    """

    def __init__(
        self, tokenizer: Any = None, settings: dict[str, Any] | None = None, chat_template: Any = None
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        self.settings = settings or {}
        self._made: dict[str, Any] = {}

    @property
    def media_processors(self) -> dict[str, Any]:
        """Modality -> what turns a file, its bytes or a tensor into the model's input."""
        if "media" not in self._made:
            self._made["media"] = MediaSettings.read(self.settings["media"]).processors()
        return self._made["media"]

    @property
    def layout(self) -> Layout:
        """How conversations become ids and placeholders: that of ChatBridge."""
        if "layout" not in self._made:
            given = self.settings
            strings = dict(given["template"])
            kind: Any = TEMPLATES.get(strings.pop("name"))
            tokenizer = Tokenizer(copy.deepcopy(self.tokenizer), given["num_rows"], given["added_tokens"])
            self._made["layout"] = Layout(
                kind(kind.Config(**strings)), tokenizer, given["media_lengths"], None, given["context_length"],
                given["slot_ids"],
            )  # fmt: skip
        return self._made["layout"]

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: Any = None,
        tokenize: bool = False,
        return_dict: bool = False,
        add_generation_prompt: bool = False,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The inputs of the model for a conversation, or for a list of them (padded on the left).

        conversation   messages; see chat_messages for their parts
        tokenize       False: the text alone, with a marker such as <image> for each item, to look at. The ids are made
                       from typed parts, so text that reads like a marker or a separator stays text
        add_generation_prompt   True: a prompt that asks for an answer. False: a whole conversation that ends with an
                       answer, with `labels` (-100 for what is not supervised), to train on
        return_dict    False: the ids alone, int64[B, L]
        raises         ValueError for messages that cannot be read, a prompt beyond the context, another chat template
        """
        _refuse(chat_template, return_tensors, kwargs)
        batch = list(conversation) if is_batch(conversation) else [conversation]
        typed = [conversation_of(messages, self.media_processors) for messages in batch]
        if not tokenize:
            texts = [self._text(one, add_generation_prompt) for one in typed]
            return texts if is_batch(conversation) else texts[0]
        made = self._inputs(typed, add_generation_prompt)
        return made if return_dict else made["input_ids"]

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """The inputs for one question of the user, or for a list of texts: media first, then the text.

        images, videos, audio   an item, or a list of items of the one question; with several texts one list for each
        raises                  ValueError for what cannot be read; see `apply_chat_template` for whole conversations
        """
        texts = [text] if isinstance(text, str) or text is None else list(text)
        given = {"image": images, "video": videos, "audio": audio}
        rows = {kind: _rows(items, kind, len(texts), isinstance(text, (list, tuple))) for kind, items in given.items()}
        messages = [
            [{"role": "user", "content": [
                *({"type": kind, kind: item} for kind, items in rows.items() for item in items[number]),
                *([{"type": "text", "text": one}] if one else []),
            ]}]
            for number, one in enumerate(texts)
        ]  # fmt: skip
        options = {"return_tensors": kwargs.pop("return_tensors", None)}
        return self.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=True, **options, **kwargs
        )

    def answers(self, sequences: Any, inputs: Mapping[str, Any] | None = None) -> list[str]:
        """The text of each answer, without stop string and blanks around it, as ChatBridge gives it.

        sequences   int64[B, L + n] of `generate`
        inputs      of the same call, whose L columns are left out; None: `sequences` has answers alone
        """
        start = 0 if inputs is None else inputs["input_ids"].shape[1]
        rows = sequences.tolist() if isinstance(sequences, Tensor) else [list(row) for row in sequences]
        return [self.layout.finish(self._without_end(row[start:])) for row in rows]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """The texts of prompts with their answers, int64[B, n], without the stop string at their end: what pipelines
        call, which then remove the prompts. `answers` gives answers alone."""
        texts = self.tokenizer.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens)
        return [self._without_stop(text) for text in texts]

    def _without_stop(self, text: str) -> str:
        found = (stop for stop in self.layout.template.stops if text.rstrip().endswith(stop))
        return text.rstrip().removesuffix(next(found, ""))

    def _without_end(self, ids: Sequence[int]) -> list[int]:
        """The ids before the first end token or stop sequence."""
        ends, stops, seen = set(self.settings["end_ids"]), self.layout.stops, []
        for number in ids:
            if number in ends:
                return seen
            seen.append(number)
            if (end := stops.end(seen)) is not None:
                return seen[:end]
        return seen

    def _text(self, conversation: Conversation, reply: bool) -> str:
        marks = [f"<{item.modality}>" for item in media_parts(conversation)]
        text, mark = self.layout.template.render(conversation, reply, "\0"), iter(marks)
        return "".join(next(mark, piece) if piece == "\0" else piece for piece in _split(text))

    def _inputs(self, conversations: Sequence[Conversation], reply: bool) -> BatchFeature:
        sequences = [self._sequence(one, reply) for one in conversations]
        width, pad = max(len(one.ids) for one in sequences), self.layout.tokenizer.pad_id
        ids = torch.full((len(sequences), width), pad)
        mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
        numbers = type_ids(self.media_processors)
        for row, one in enumerate(sequences):
            start = width - len(one.ids)
            ids[row, start:], mask[row, start:] = torch.tensor(one.ids), 1
            for slot in one.media_slots:
                types[row, start + slot.start : start + slot.start + slot.length] = numbers[slot.modality]
        made = {"input_ids": ids, "attention_mask": mask, TYPE_IDS: types, **self._media(conversations)}
        return BatchFeature(made if reply else {**made, "labels": _labels(sequences, ids)})

    def _sequence(self, conversation: Conversation, reply: bool) -> TokenSequence:
        if not reply and conversation[-1].role != "assistant":
            raise ValueError("the conversation has no answer yet; set add_generation_prompt=True to ask for one")
        make = self.layout.prompt if reply else self.layout.training_sequence
        sequence = make(conversation)
        most = self.settings["context_length"]
        if most is not None and len(sequence.ids) > most:
            raise ValueError(
                f"the conversation needs {len(sequence.ids)} tokens, the model's context is {most}; leave out its "
                "oldest turns"
            )
        return sequence

    def _media(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """Input name -> [M, ...] of all items of a modality in reading order."""
        found: dict[str, list[Tensor]] = {}
        for conversation in conversations:
            for item in media_parts(conversation):
                found.setdefault(input_name(item.modality), []).append(
                    self.media_processors[item.modality](item.ref, None)
                )
        return {name: torch.stack(items) for name, items in found.items()}


def _labels(sequences: Sequence[TokenSequence], ids: Tensor) -> Tensor:
    """int64[B, L], the supervised ids at their own positions (transformers shifts them), -100 elsewhere."""
    labels = torch.full_like(ids, IGNORED)
    for row, one in enumerate(sequences):
        start = ids.shape[1] - len(one.ids)
        for position, target in zip(one.predict_at, one.target, strict=True):
            if position + 1 < len(one.ids):
                labels[row, start + position + 1] = target
    return labels


def _split(text: str) -> list[str]:
    """The text cut at each NUL, which stay as pieces of their own."""
    pieces = [piece for one in text.split("\0") for piece in (one, "\0")]
    return pieces[:-1]


def _rows(items: Any, kind: str, num_texts: int, is_batched: bool) -> list[list[Any]]:
    """The items of each text. raises ValueError when they are not one list for each of several texts"""
    if items is None:
        return [[] for _ in range(num_texts)]
    if not is_batched:
        return [list(items) if isinstance(items, list) else [items]]
    if not isinstance(items, (list, tuple)) or len(items) != num_texts:
        raise ValueError(f"{kind}: give one list of items for each of the {num_texts} texts")
    return [list(one) if isinstance(one, list) else [one] for one in items]


def _refuse(chat_template: Any, return_tensors: Any, others: Mapping[str, Any]) -> None:
    """raises ValueError for arguments of transformers that would be ignored"""
    if chat_template is not None:
        raise ValueError("this model was trained with one conversation format; leave chat_template out")
    if return_tensors not in (None, "pt"):
        raise ValueError(f"return_tensors is 'pt' (PyTorch) here, found {return_tensors!r}")
    if others.get("padding_side", "left") != "left":
        raise ValueError("prompts are padded on the left, so that answers follow them; leave padding_side out")
    if others.get("continue_final_message"):
        raise ValueError("continue_final_message is not supported; end the conversation with a question")
    known = {"padding", "padding_side", "continue_final_message", "processor_kwargs", "load_audio_from_video"}
    if unknown := sorted(name for name in others if name not in known):
        raise ValueError(
            f"{', '.join(unknown)}: not accepted here; frames, sizes and sampling rates are settings of the model"
        )


__all__ = ["ChatBridgeProcessor"]
