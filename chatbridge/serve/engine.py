"""A model that answers: typed conversations in, words out as they come. The demo and every server stand on this."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.common import seeds
from chatbridge.common.errors import MediaError, nearest
from chatbridge.common.text_repair import is_valid, repaired
from chatbridge.common.types import Batch, Sample
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Part, Text, media_parts, user
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.collate import collate
from chatbridge.experiment.chat_config import as_trained, config_of, read_chat
from chatbridge.experiment.chat_model import build, build_generator, check_drawing
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.generators import Generator
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.base import checked_names
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.decode import Decoding, Generation
from chatbridge.processors.limits import ChatLimits, with_limits
from chatbridge.serve.drawing_answers import Draw, Illustrating, only_image
from chatbridge.serve.message_inputs import check_message, is_waveform, parts_of
from chatbridge.serve.moved_files import redirectable
from chatbridge.serve.prompt_cache import KeptCache
from chatbridge.serve.upload_parts import Attachment, Decoded
from chatbridge.serve.upload_reader import Reader

DEFAULT_TOKENS = 256  # of an answer
RESERVED = 64  # places that are kept for an answer before rounds are left out


class NoAnswer(ValueError):
    """Why this question cannot be answered; str() is for a person."""


@dataclass(frozen=True)
class Answer:
    """What there is of an answer.

    parts    text and drawings so far; a drawing has its image (uint8[3, H, W]) where a generator draws
    is_done  True for the last one
    notes    what the person should know, for example turns that were left out
    """

    parts: tuple[Part, ...]
    is_done: bool = False
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The text alone."""
        return self.message.text

    @property
    def message(self) -> Message:
        """The answer as a turn of a conversation that goes on."""
        return Message("assistant", self.parts)


class ChatEngine:
    """Answers conversations; calls from several threads take turns, one token each.

    kept     the KV cache of the last answer: a question that continues its conversation reads only what is new
    about    lines for people: which weights were loaded
    limits   what a file may cost; files are read in processes of their own, see `reader`
    generator  draws the images of answers; None: their captions come alone
    """

    def __init__(
        self,
        model: ChatModel,
        layout: Layout,
        about: Sequence[str] = (),
        limits: ChatLimits | None = None,
        generator: Generator | None = None,
    ) -> None:
        """raises ValueError for a generator beside a template or language model that cannot draw within an answer"""
        if generator is not None:
            check_drawing(model, layout)
        self.generator = generator
        self.model = model.eval()
        self.layout = layout
        self.about = tuple(about)
        self.limits = limits or ChatLimits()
        limits_of_file = self.limits.limits
        self.processors = {
            name: with_limits(one, limits_of_file) for name, one in model.processors(train=False).items()
        }
        self.reader = Reader(self.processors, self.limits)
        self.kept = KeptCache()
        self._turn = threading.Lock()

    @classmethod
    def from_config(
        cls,
        cfg_path: str | Path,
        options: Sequence[str] = (),
        checkpoint: str | Path | None = None,
        gpu_id: int | None = None,
    ) -> ChatEngine:
        """From a YAML file; `checkpoint`, a run or step folder, goes before its run.init_from.

        gpu_id   which GPU of this machine; None: the first one, if there is one
        raises   ConfigError with everything that is wrong
        """
        config = read_chat(cfg_path, options, checkpoint)
        model, layout, about = build(config, gpu_id)
        generator, said = build_generator(config, model, layout)
        return cls(model, layout, (*about, *said), config.evaluation.chat, generator)

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path, options: Sequence[str] = ()) -> ChatEngine:
        """From a run folder, or one of its step folders, alone: the run says how its model is built."""
        with redirectable(f'ChatEngine.from_checkpoint("{checkpoint}", ["{{}}"])'):
            return cls.from_config(config_of(checkpoint), as_trained(options), checkpoint)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.processors)

    def attach(self, path: str | Path) -> Attachment:
        """A file as typed, decoded parts of a turn. raises MediaError with a reason for a person"""
        return self.reader.attach(path)

    def reply(self, turn: Any, options: GenerateOptions | Mapping[str, Any] | None = None, **settings: Any) -> str:
        """The words that answer one turn, or a conversation.

        turn      words; or a list of words (str), files (Path), images, arrays, waveforms and typed parts, see
                  `inputs`; or a list of Messages, the question last
        options   how the answer is drawn; `settings` are single ones: reply(turn, max_new_tokens=20)
        raises    MediaError for a file that cannot be read, NoAnswer when nothing is asked, TypeError for what is none
                  of these, ValueError for a setting out of its range
        """
        chosen = options_from(options, settings)
        items = list(turn) if isinstance(turn, (list, tuple)) and not is_waveform(turn) else [turn]
        if items and all(isinstance(item, Message) for item in items):
            return self.answer(tuple(items), chosen).text
        if any(isinstance(item, Message) for item in items):
            raise TypeError(
                "reply takes a conversation of Messages alone, or the parts of one turn, not both in one list"
            )
        self._check_room(sum(not isinstance(item, (str, Text)) for item in items))
        parts = [part for item in items for part in parts_of(item, self._media_of, self.processors)]
        return self.answer((user(*parts),), chosen).text

    def _media_of(self, path: Path) -> tuple[Media, ...]:
        return self.attach(path).media

    def answer(self, conversation: Conversation, options: GenerateOptions | None = None) -> Answer:
        """The whole answer to the last turn; see `stream`."""
        *_, last = self.stream(conversation, options)
        return last

    def parts(self, conversation: Conversation, options: GenerateOptions | None = None) -> Iterator[Part]:
        """The parts of the answer, each as soon as it is whole; see `stream`."""
        return self._parts(self.stream(conversation, options))

    @staticmethod
    def _parts(answers: Iterator[Answer]) -> Iterator[Part]:
        num_given = 0
        for answer in answers:
            is_whole = answer.is_done or isinstance(answer.parts[-1], Drawing)
            whole = answer.parts if is_whole else answer.parts[:-1]
            yield from whole[num_given:]
            num_given = max(num_given, len(whole))

    def stream(self, conversation: Conversation, options: GenerateOptions | None = None) -> Iterator[Answer]:
        """The answer as it grows; the last item is done and whole. Closing the iterator stops the generation.

        raises   MediaError when a medium cannot be read, NoAnswer when nothing is asked or there is no room: both at
                 once, before the first item is asked for
        """
        options = options or GenerateOptions(max_new_tokens=DEFAULT_TOKENS)
        if self.generator is not None and options.num_beams > 1:
            raise ValueError("an answer that may draw is made without beams; set num_beams to 1")
        self._check(conversation)
        conversation = tuple(_sound(message) for message in conversation)
        kept, num_left_out, room = self._fitting(conversation, options.max_new_tokens)
        notes = (left_out(num_left_out),) if num_left_out else ()
        least = min(options.min_new_tokens, room)
        return self._stream(self._batch(kept), replace(options, max_new_tokens=room, min_new_tokens=least), notes)

    def _batch(self, conversation: Conversation) -> Batch:
        media = tuple(map(self._input, media_parts(conversation)))
        sample = Sample("chat", "chat", conversation, media)
        return collate([sample], self.layout, prompt=True).to(self.model.device)

    def _input(self, item: Media) -> Tensor:
        """What its encoder takes. A file is read in a process of its own; what is decoded is not read again."""
        if isinstance(item.ref, Decoded):
            return item.ref.tensor
        if isinstance(item.ref, Tensor):
            return self.processors[item.modality](item.ref, None)
        if not isinstance(item.ref, (str, Path, bytes)):
            what = "a path, the bytes of a file, or a tensor"
            raise TypeError(f"Media({item.modality!r}, ...) takes {what}, found {type(item.ref).__name__}")
        return self.reader.read(item.modality, item.ref).tensor

    def _check(self, conversation: Conversation) -> None:
        for message in conversation:
            check_message(message)
        for item in media_parts(conversation):
            if item.modality not in self.processors:
                meant = nearest(item.modality, tuple(self.processors))
                advice = f"; did you mean {meant}?" if meant else ""
                raise MediaError(f"this model takes no {item.modality}; it takes {', '.join(self.processors)}{advice}")

    def _check_room(self, num_media: int) -> None:
        """Before anything is decoded: so many media have no room, whatever they are. raises NoAnswer"""
        limit = self.model.language.max_positions
        least = num_media * min(self.layout.media_lengths.values())
        if limit is not None and least > limit:
            raise NoAnswer(
                f"{num_media} media items take at least {least} of the {limit} positions of this language model; "
                "ask about fewer at a time"
            )

    def _fitting(self, conversation: Conversation, wanted: int) -> tuple[Conversation, int, int]:
        """The conversation without its first rounds where the language model has no room for them, how many were left
        out, and how many new tokens there is room for."""
        limit = self.model.language.max_positions
        starts = [at for at, message in enumerate(conversation) if message.role == "user"]
        if not starts or conversation[-1].role == "assistant":
            raise NoAnswer("there is no question to answer")
        if not conversation[starts[-1]].text.strip() and not conversation[starts[-1]].media:
            kinds = ", ".join(map(MODALITIES.noun, self.processors))
            raise NoAnswer(f"the question is empty: write text, or attach a file ({kinds})")
        size = 0
        for num_left_out, start in enumerate(starts):
            kept = (*conversation[: starts[0]], *conversation[start:])
            size = len(self.layout.prompt(kept))
            if limit is None or size + min(wanted, RESERVED) <= limit:
                return kept, num_left_out, wanted if limit is None else min(wanted, limit - size)
        raise NoAnswer(f"the question takes {size} of the {limit} places of this language model; make it shorter")

    def _stream(self, batch: Batch, options: GenerateOptions, notes: tuple[str, ...]) -> Iterator[Answer]:
        """Streams of several threads take turns, one token each; an iterator that nobody asks again does nothing."""
        parts: tuple[Part, ...] = ()
        with self._turn:
            growing, cache = self._begin(batch, options)
        try:
            while not growing.is_done:
                with self._turn:
                    growing.step()
                grown = self._shown(growing.answers[0], _images_of(growing))
                if not growing.is_done and not _are_same(grown, parts):
                    parts = grown
                    yield Answer(parts, notes=notes)
            whole = _illustrated(self.layout.parts(growing.answers[0]), _images_of(growing))
            yield Answer(whole, is_done=True, notes=notes)
        except GeneratorExit:
            self._keep(cache, batch, growing)
            raise
        self._keep(cache, batch, growing)  # not after an error: a layer may have read what the next has not

    def _begin(self, batch: Batch, options: GenerateOptions) -> tuple[Generation, Cache | None]:
        """An answer that grows; without beams, after what the last conversation has in common with this one."""
        if options.num_beams > 1:
            return self.model.start_generation(batch, options, self.layout.stops), None
        cache, rest = self.kept.take(self.model, batch)
        growing = self.model.start_generation(rest, options, self.layout.stops, cache)
        if self.generator is not None and isinstance(growing, Decoding):
            draw, read = self._drawn_with(self.generator, options.seed), self._read_drawn
            growing = Illustrating(self.model, self.layout, growing, draw, read, self.model.language.max_positions)
        return growing, cache

    def _drawn_with(self, generator: Generator, seed: int | None) -> Draw:
        """The k-th image of an answer has a seed of its own; without a seed of the answer, torch's state gives one."""
        first = int(torch.randint(2**31, ())) if seed is None else seed

        def draw(caption: str, number: int) -> Tensor:
            images = generator.render([caption], [seeds.number(first, "drawing", number)])
            return only_image(images, type(generator).__name__)

        return draw

    def _read_drawn(self, image: Tensor) -> Tensor:
        return self.processors["image"](image, None)

    def _keep(self, cache: Cache | None, batch: Batch, growing: Generation) -> None:
        if cache is not None and isinstance(growing, (Decoding, Illustrating)):
            self.kept.put(cache, batch, growing.chosen[0])

    def _shown(self, ids: Sequence[int], images: Sequence[Tensor] = ()) -> tuple[Part, ...]:
        """The parts so far, without an end that may still become a stop string or a letter."""
        parts = _illustrated(self.layout.parts(ids, is_whole=False), images)
        if not parts or not isinstance(parts[-1], Text):
            return parts
        text = self._settled(parts[-1].text)
        return (*parts[:-1], Text(text)) if text else parts[:-1]

    def _settled(self, text: str) -> str:
        text = text.rstrip("\ufffd")
        for stop in self.layout.template.stops:
            for length in range(len(stop) - 1, 0, -1):
                if text.endswith(stop[:length]):
                    return text[:-length].rstrip()
        return text


def _images_of(growing: Generation) -> Sequence[Tensor]:
    return growing.images if isinstance(growing, Illustrating) else ()


def _illustrated(parts: Sequence[Part], images: Sequence[Tensor]) -> tuple[Part, ...]:
    """With the images that were drawn, and half emojis in the text repaired."""
    left = iter(images)
    return tuple(
        replace(part, ref=next(left, None)) if isinstance(part, Drawing) else part for part in map(_repaired, parts)
    )


def _repaired(part: Part) -> Part:
    if isinstance(part, Drawing):
        return replace(part, caption=repaired(part.caption))
    return Text(repaired(part.text)) if isinstance(part, Text) else part


def _are_same(parts: Sequence[Part], before: Sequence[Part]) -> bool:
    """Images are compared by what they are, not by their pixels."""
    return len(parts) == len(before) and all(map(_is_same, parts, before))


def _is_same(one: Part, other: Part) -> bool:
    if isinstance(one, Drawing) and isinstance(other, Drawing):
        return one.caption == other.caption and one.ref is other.ref
    return one == other


def _sound(message: Message) -> Message:
    """The message with half emojis in its text repaired: tokenizers raise on them."""
    if all(is_valid(_text_of(part)) for part in message.parts):
        return message
    return replace(message, parts=tuple(map(_repaired, message.parts)))


def _text_of(part: Part) -> str:
    return part.text if isinstance(part, Text) else part.caption if isinstance(part, Drawing) else ""


def options_from(options: GenerateOptions | Mapping[str, Any] | None, settings: Mapping[str, Any]) -> GenerateOptions:
    """raises TypeError for a setting that does not exist, ValueError for a value out of range"""
    if isinstance(options, GenerateOptions):
        return replace(options, **checked_names(settings)) if settings else options
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options are GenerateOptions or a mapping of its settings, found {type(options).__name__}")
    return GenerateOptions(**{"max_new_tokens": DEFAULT_TOKENS, **(options or {}), **settings})


def left_out(count: int) -> str:
    rounds = "the first question and its answer" if count == 1 else f"the first {count} questions and their answers"
    return f"{rounds} no longer fit into the language model and were left out"
