"""The chat engine: typed conversations in, answers out as they grow. The terminal, the demo and `load_model` use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatbridge.common.types import Batch
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Message, Part, Text, user
from chatbridge.conversation.question_form import QuestionForm
from chatbridge.experiment.build import build_chat, check_drawing
from chatbridge.experiment.open import as_trained, config_of, open_chat
from chatbridge.experiment.roots import Chat
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing import Artist
from chatbridge.models.drawing.start import BEAMS
from chatbridge.models.generators import Generator
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.answer_options import AnswerOptions, options_from
from chatbridge.processors.limits import ChatLimits
from chatbridge.processors.media_processor import with_limits
from chatbridge.serve.answer import Answer, finished_parts, without_lone_surrogates
from chatbridge.serve.answer_stream import AnswerStream
from chatbridge.serve.caches.encoded_media import EncodedMedia
from chatbridge.serve.caches.prompt_cache import PromptCache
from chatbridge.serve.context_length import check_media_count, fit_prompt
from chatbridge.serve.conversation_inputs import ConversationInputs
from chatbridge.serve.growing_answer import GrowingAnswer
from chatbridge.serve.message_inputs import check_question, is_waveform
from chatbridge.serve.moved_files import hint_moved_files
from chatbridge.serve.request import PLAIN, RequestSettings
from chatbridge.serve.scheduler import Request, Scheduler
from chatbridge.serve.scheduler.beginnings import Beginnings
from chatbridge.serve.scheduler.requests import CLOSED
from chatbridge.serve.token_texts import TokenTexts
from chatbridge.serve.uploads.upload_parts import Attachment
from chatbridge.serve.uploads.upload_reader import UploadReader

UNCOUNTED = "log-probabilities are of answers without beams and drawings; set num_beams to 1, or do not ask for them"


class ChatEngine:
    """Answers conversations. Any number of threads may ask at once: their answers grow together, see `Scheduler`.

    about         lines for the user: which weights were loaded
    limits        of uploaded files, which separate processes read; see `uploads.upload_reader`
    generation    generation settings that a question without options uses
    question_form  how front ends put the files and the text of a question together
    prompt_cache  KV caches of recent conversations: a question that continues one reads only new tokens
    encoded       media of recent conversations: each is encoded once
    scheduler     runs the model, in a thread of its own while there are questions
    """

    def __init__(
        self,
        model: ChatModel,
        layout: Layout,
        about: Sequence[str] = (),
        limits: ChatLimits | None = None,
        generator: Generator | None = None,
        generation: GenerateOptions | None = None,
        question_form: QuestionForm | None = None,
    ) -> None:
        """raises ValueError for a generator with a template or language model that cannot draw within an answer"""
        if generator is not None:
            check_drawing(model, layout)
        self.artist = Artist(generator)
        self.model = model.eval()
        self.layout = layout
        self.about = tuple(about)
        self.limits = limits or ChatLimits()
        self.generation: GenerateOptions = generation or AnswerOptions()
        self.question_form = question_form or QuestionForm()
        file_limits = self.limits.limits
        self.processors = {name: with_limits(one, file_limits) for name, one in model.processors(train=False).items()}
        self.reader = UploadReader(self.processors, self.limits)
        self.prompt_cache = PromptCache(self.limits.prompt_cache_mb)
        self.encoded = EncodedMedia(self.limits.media_cache_mb)
        self._inputs = ConversationInputs(self.processors, self.reader)
        read_image = self._inputs.of_image
        beginnings = Beginnings(self.model, self.prompt_cache, self.encoded, lambda: self.artist, read_image)
        self.scheduler = Scheduler(self.model, beginnings, self.limits)
        self._texts = TokenTexts(layout.tokenizer)

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
        return cls.from_settings(open_chat(cfg_path, options, checkpoint).config, gpu_id)

    @classmethod
    def from_settings(cls, config: Chat, gpu_id: int | None = None) -> ChatEngine:
        """From settings that were read already; see `from_config`."""
        built, chosen = build_chat(config, gpu_id), config.evaluation
        form = chosen.question
        return cls(built.model, built.layout, built.lines, chosen.chat, built.generator, chosen.generation, form)

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path, options: Sequence[str] = ()) -> ChatEngine:
        """From a run folder, or one of its step folders; the run's own configuration describes its model."""
        with hint_moved_files(f'ChatEngine.from_checkpoint("{checkpoint}", ["{{}}"])'):
            return cls.from_config(config_of(checkpoint), as_trained(options), checkpoint)

    @property
    def generator(self) -> Generator | None:
        """Renders the images of answers; None: answers hold captions only."""
        return self.artist.generator

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the files it accepts."""
        return tuple(self.processors)

    def attach(self, path: str | Path, modality: str | None = None) -> Attachment:
        """A file as typed, decoded parts of a turn. raises MediaError with a message for the user

        modality   read it as this one; None: the content decides, and a video brings its audio track
        """
        return self._inputs.attach(path, modality)

    def reply(self, turn: Any, options: GenerateOptions | Mapping[str, Any] | None = None, **settings: Any) -> str:
        """The text that answers one turn, or a conversation; `reply_parts` gives its images too.

        turn      text; or a list of text (str), files (Path), images, arrays, waveforms and typed parts, see
                  `message_inputs`; or a list of Messages that ends with the question
        options   how the answer is generated; `settings` are single ones: reply(turn, max_new_tokens=20)
        raises    MediaError for a file that cannot be read, NoAnswer without a question or room for an answer,
                  TypeError for other types, ValueError for a setting out of its range
        """
        return self._answer_to(turn, options_from(options, settings, self.generation)).text

    def reply_parts(
        self, turn: Any, options: GenerateOptions | Mapping[str, Any] | None = None, **settings: Any
    ) -> tuple[Part, ...]:
        """The answer as parts in order, see `reply`: Text, and a Drawing with its caption and image.

        `Drawing.ref` is uint8[3, H, W], or None when the model has no generator or the image could not be rendered.
        """
        return self._answer_to(turn, options_from(options, settings, self.generation)).parts

    def _answer_to(self, turn: Any, chosen: GenerateOptions) -> Answer:
        items = list(turn) if isinstance(turn, (list, tuple)) and not is_waveform(turn) else [turn]
        messages = tuple(item for item in items if isinstance(item, Message))
        if messages and len(messages) == len(items):
            return self.answer(messages, chosen)
        if messages:
            raise TypeError("reply accepts Messages only, or the parts of one turn, not both in one list")
        return self.answer((user(*self.turn(items)),), chosen)

    def answer(
        self,
        conversation: Conversation,
        options: GenerateOptions | None = None,
        settings: RequestSettings = PLAIN,
    ) -> Answer:
        """The complete answer to the last turn; see `stream`."""
        *_, last = self.stream(conversation, options, settings=replace(settings, is_whole=True))
        return last

    def parts(self, conversation: Conversation, options: GenerateOptions | None = None) -> Iterator[Part]:
        """The parts of the answer, each as soon as it is complete; see `stream`."""
        return finished_parts(self.stream(conversation, options))

    def stream(
        self,
        conversation: Conversation,
        options: GenerateOptions | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
        settings: RequestSettings = PLAIN,
    ) -> AnswerStream:
        """The answer as it grows; the last item is complete. Closing the iterator stops the generation.

        It is generated from now on, whether items are requested or not.

        settings    further stop strings, which the answer does not contain, log-probabilities, a time limit
        is_stopped  checked before every token, and several times a second while an image is rendered; True ends the
                    iterator, without a complete answer. Several tokens may pass between two items, since an item has
                    new text, or a new share of the image that is being rendered
        raises   MediaError for a media item that cannot be read, NoAnswer without a question or room for an answer,
                 Busy when too many questions wait, Unavailable once it is closed, ValueError for settings that do not
                 go together; all when it is called, before the first item is requested
        """
        request, notes = self._request(conversation, options or self.generation, settings)
        return AnswerStream(self.scheduler, request, GrowingAnswer(request, notes, self._texts), is_stopped)

    def _request(
        self, conversation: Conversation, options: GenerateOptions, settings: RequestSettings
    ) -> tuple[Request, tuple[str, ...]]:
        """A question with its media read, and notes for the user; raises as `stream`."""
        asked_at = time.monotonic()
        if self.generator is not None and options.num_beams > 1:
            raise ValueError(BEAMS)
        if settings.top_logprobs is not None and (options.num_beams > 1 or self.layout.template.drawing_ids):
            raise ValueError(UNCOUNTED)
        self._inputs.check(conversation)
        conversation = tuple(without_lone_surrogates(message) for message in conversation)
        check_question(conversation, self.modalities)
        fitted = fit_prompt(conversation, self.layout, self._context_length, options.max_new_tokens)
        room = fitted.max_new_tokens
        options = replace(options, max_new_tokens=room, min_new_tokens=min(options.min_new_tokens, room))
        conversation, digests = self._inputs.decoded(fitted.conversation)
        layout = self.layout.stopping_at(settings.stop)
        return Request(self.prompts([conversation]), digests, options, layout, settings, asked_at), fitted.notes

    @property
    def _context_length(self) -> int | None:
        return self.model.language.max_positions

    def prompts(self, conversations: Sequence[Conversation]) -> Batch:
        """The prompts of checked conversations, with their media as the encoders read them, on the model's device.

        raises   MediaError for a media item that cannot be read
        """
        return self._inputs.prompts(conversations, self.layout).to(self.model.device)

    def turn(self, items: Sequence[Any]) -> tuple[Part, ...]:
        """Text, files and data in memory as typed, decoded parts of a turn, see `message_inputs`.

        raises   MediaError for a file that cannot be read, NoAnswer for more media than fit, TypeError for other types
        """
        check_media_count(sum(not isinstance(item, (str, Text)) for item in items), self.layout, self._context_length)
        return self._inputs.turn(items)

    def forget(self) -> None:
        """Free the memory of all that is kept between requests; needed after the weights have changed."""
        self.prompt_cache.forget()
        self.encoded.forget()
        self.reader.kept.forget()

    def stats(self) -> Mapping[str, float | Mapping[str, float]]:
        """What was counted since the start, and what the caches hold; see `Backend.stats`."""
        found: dict[str, float | Mapping[str, float]] = dict(self.scheduler.stats())
        caches = {"prompt": self.prompt_cache, "media": self.encoded, "upload": self.reader.kept}
        for name, counts in ((name, cache.counts()) for name, cache in caches.items()):
            found[f"{name}_cache_bytes"] = counts.num_bytes
            found[f"{name}_cache_entries"] = counts.num_entries
            found[f"{name}_cache_total"] = {"hit": counts.hits, "miss": counts.misses}
        return found

    def problem(self) -> str | None:
        """Why it cannot answer at present; None: it can."""
        return CLOSED if self.scheduler.is_closed else None

    def close(self) -> None:
        """End all requests, the thread of the model and the processes that read files."""
        self.scheduler.close()
        self.reader.close()
