"""Our models in lmms-eval (EvolvingLMMs-Lab/lmms-eval), so that its data sets run with them:

    lmms-eval --model chatbridge --model_args cfg=eval_configs/chatbridge_eval.yaml --tasks mme,pope --batch_size 8
    lmms-eval --model chatbridge --model_args 'cfg=x.yaml,checkpoint=runs/x,options="run.device=cpu model.a=b"' ...

It is registered through the entry point `lmms_eval.models` of the installed package. Arguments: `cfg`, a YAML as the
demo takes it; `checkpoint`, a run or step folder, with or without `cfg`; `options`, settings as after --options. Under
torchrun or accelerate every rank has the GPU of its LOCAL_RANK. Questions are laid out by the model's own template and
`evaluation.question`; images, video files (with their sound, where the model hears) and waveforms become its media, at
the marks `<image>` in the text if there are as many, before the text otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

from chatbridge.common import seeds
from chatbridge.common.errors import MediaError
from chatbridge.common.log import get_logger
from chatbridge.conversation.messages import Conversation, Media, Part, Text, user
from chatbridge.conversation.stop_strings import Stops
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.context_length import NoAnswer, fit_prompt
from chatbridge.serve.engine import ChatEngine

log = get_logger(__name__)
IMAGE = "<image>"
MAX_NEW_TOKENS = 256  # for tasks that do not say it
SAME = ("max_new_tokens", "min_new_tokens", "num_beams", "repetition_penalty", "length_penalty", "top_k", "top_p")
SAMPLING = ("top_k", "top_p", "temperature")
READ = ("until", "do_sample", "temperature", *SAME)


def manifest() -> ModelManifest:
    """What lmms-eval registers, through the entry point of setup.py."""
    return ModelManifest("chatbridge", simple_class_path=f"{__name__}.ChatBridge")


class Loss(tuple[float, bool], GenerationResult):
    """(negative log-likelihood in nats, whether it is the greedy continuation), as the interface asks for.

    The evaluator of 0.7.3 turns results of other types than its own into text, pairs of numbers too, so that its tasks
    of the type multiple_choice fail. It takes this one's `text`.
    """

    token_counts = None

    def __init__(self, pair: tuple[float, bool]) -> None:
        """The pair is set by tuple itself."""

    @property
    def text(self) -> tuple[float, bool]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self[0], self[1]


class ChatBridge(lmms):
    """Answers and likelihoods of one of our models.

    cfg, checkpoint, options   see the module
    batch_size                 questions that are generated together
    device                     cpu, or cuda:1; under several processes each has its own GPU
    raises                     ConfigError with everything that is wrong with the configuration
    """

    is_simple = True

    def __init__(
        self,
        cfg: str | None = None,
        checkpoint: str | None = None,
        options: str = "",
        batch_size: int | str = 1,
        device: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        if others.pop("max_batch_size", None) not in (None, "None") or others:
            known = "cfg, checkpoint, options, batch_size, device"
            raise ValueError(
                f"--model_args of chatbridge has no {', '.join(others) or 'max_batch_size'}; it has {known}"
            )
        if not str(batch_size).isdigit() or not int(batch_size):
            raise ValueError(f"--batch_size is {batch_size!r}, expected a whole number from 1 on")
        self.batch_size_per_gpu = int(batch_size)
        self.engine = _engine(cfg, checkpoint, str(options), device)
        self._ignored: set[str] = set()
        self.num_unreadable = 0

    @property
    def device(self) -> Any:
        return self.engine.model.device

    @property
    def batch_size(self) -> int:
        return self.batch_size_per_gpu

    def clean(self) -> None:
        """Free the memory of the model, which lmms-eval does before a judge is loaded."""
        if self.num_unreadable:
            log.warning("%d questions could not be read and have the answer ''", self.num_unreadable)
        del self.engine
        super().clean()

    def generate_until(self, requests: Any) -> list[str]:
        asked = [(one.args, number) for number, one in enumerate(requests)]
        found: list[str] = []
        for start in range(0, len(asked), self.batch_size):
            batch = asked[start : start + self.batch_size]
            questions = [(self._visuals(args[2], *args[3:]), args[0], args[1], at) for args, at in batch]
            found += self._answers(questions)
        return found

    def generate_until_multi_round(self, requests: Any) -> list[list[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [self._rounds(one.args, number) for number, one in enumerate(requests)]

    def loglikelihood(self, requests: Any) -> list[Loss]:
        """The negative log-likelihood in nats of each continuation, and whether it is the greedy one.

        lmms-eval takes the lowest value for the best choice (api/task.py: process_results), so it is a loss. Requests
        in a row about the same question share one pass over it.
        """
        found: list[Loss] = []
        for _, group in groupby((one.args for one in requests), key=lambda args: (args[0], *args[3:])):
            same = list(group)
            context, _, *more = same[0]
            conversation = self._conversation(self._visuals(*more) if more else (), context)
            continuations = self.engine.layout.continuations(conversation, [self._target(args) for args in same])
            made = self.engine.model.likelihoods(self.engine.prompts([conversation]), continuations)
            found += [Loss((-one.total, one.is_greedy)) for one in made]
        return found

    def _rounds(self, args: Sequence[Any], number: int) -> list[str]:
        """The answers to a question of several rounds; each one follows from those before."""
        context, settings, to_visual, to_text, *place = args
        visuals, outputs, info = self._visuals(to_visual, *place), [], None
        while True:
            outputs = [*outputs, *self._answers([(visuals, context, settings, number)])]
            visuals, context, is_over, outputs, info = to_text(
                self._doc(*place), previous_output=list(outputs), round_idx=len(outputs), previous_round_info=info
            )
            if is_over:
                return list(outputs)

    def _answers(self, questions: Sequence[tuple[Sequence[Any], str, Mapping[str, Any], int]]) -> list[str]:
        """The answers to questions (media, text, generation settings, number); "" where media are unreadable."""
        found, ready = [""] * len(questions), list[tuple[int, Conversation, GenerateOptions]]()
        for at, (visuals, text, settings, number) in enumerate(questions):
            options = self._options(settings, number)
            try:
                conversation = self._conversation(visuals, text)
                fitted = fit_prompt(
                    conversation, self.engine.layout, self.engine.model.language.max_positions, options.max_new_tokens
                )
            except (MediaError, NoAnswer) as error:
                log.error("a question could not be read: %s", error)
                self.num_unreadable += 1
                continue
            room = fitted.max_new_tokens
            options = replace(options, max_new_tokens=room, min_new_tokens=min(options.min_new_tokens, room))
            ready.append((at, conversation, options))
        if ready:
            stops = [self._until(questions[at][2]) for at, *_ in ready]
            batch = self.engine.prompts([conversation for _, conversation, _ in ready])
            generated = self.engine.model.generate(batch, [options for *_, options in ready], self._stops(stops))
            for (at, *_), ids, until in zip(ready, generated, stops, strict=True):
                found[at] = _before(self.engine.layout.finish(ids), until)
        return found

    def _conversation(self, visuals: Sequence[Any], text: str) -> Conversation:
        """One turn of the user. raises MediaError, NoAnswer for more media than fit, TypeError for an unknown kind"""
        media = [part for one in visuals for part in self.engine.turn([_known(one)])]
        pieces = text.split(IMAGE)
        if media and len(pieces) - 1 == len(media):
            parts: list[Part] = [Text(pieces[0])]
            for item, piece in zip(media, pieces[1:], strict=True):
                parts += [item, Text(piece)]
            return (user(*(part for part in parts if part != Text(""))),)
        items = [item for item in media if isinstance(item, Media)]
        return (self.engine.question_form.message(items, text.replace(f"{IMAGE}\n", "").replace(IMAGE, "")),)

    def _visuals(self, to_visual: Any, doc_id: Any, task: str, split: str) -> list[Any]:
        found = to_visual(self._doc(doc_id, task, split))
        return list(_flat(found)) if found is not None else []

    def _doc(self, doc_id: Any, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _target(self, args: Sequence[Any]) -> str:
        """The continuation of a request, without the blank before it, which is the template's."""
        target = args[1] if isinstance(args[1], str) else args[1](self._doc(*args[3:]))
        return str(target).strip()

    def _options(self, settings: Mapping[str, Any], number: int) -> GenerateOptions:
        """Generation settings of a task, in the names of transformers; a temperature of 0 means greedy."""
        for name in sorted(set(settings) - set(READ) - self._ignored):
            self._ignored.add(name)
            log.warning("the generation setting %s: %r of a task is not used", name, settings[name])
        given = {name: settings[name] for name in (*SAME, "temperature") if settings.get(name) is not None}
        samples = bool(settings.get("do_sample")) and given.get("temperature", 1.0) > 0
        if not samples:
            given = {name: value for name, value in given.items() if name not in SAMPLING}
        seed = seeds.number(0, "lmms_eval", number) % 2**31
        return GenerateOptions(**{"max_new_tokens": MAX_NEW_TOKENS, **given, "sample": samples, "seed": seed})

    def _stops(self, until: Sequence[Sequence[str]]) -> list[Stops]:
        layout = self.engine.layout
        return [Stops(layout.stop_ids, (*layout.template.stops, *more), layout.tokenizer.decode) for more in until]

    @staticmethod
    def _until(settings: Mapping[str, Any]) -> list[str]:
        found = settings.get("until") or []
        return [found] if isinstance(found, str) else list(found)


def _engine(cfg: str | None, checkpoint: str | None, options: str, device: str | None) -> ChatEngine:
    """raises ValueError without a configuration, ConfigError for one that is wrong"""
    if not cfg and not checkpoint:
        raise ValueError("--model_args needs cfg=FILE.yaml, or checkpoint=RUN_FOLDER, or both")
    settings = options.strip("\"'").split()
    if device == "cpu" and not any(one.startswith("run.device=") for one in settings):
        settings.append("run.device=cpu")
    if not cfg:
        return ChatEngine.from_checkpoint(str(checkpoint), settings)
    kind, _, number = (device or "").partition(":")
    rank = os.environ.get("LOCAL_RANK")
    gpu = int(rank) if rank is not None else int(number) if kind == "cuda" and number else None
    return ChatEngine.from_config(cfg, settings, checkpoint, None if device == "cpu" else gpu)


def _flat(items: Any) -> Iterator[Any]:
    """The items of nested lists, one by one; None is nothing."""
    for one in items if isinstance(items, list | tuple) else [items]:
        if isinstance(one, list):
            yield from _flat(one)
        elif one is not None:
            yield one


def _known(item: Any) -> Any:
    """A visual of lmms-eval as `ChatEngine.turn` reads it: paths, and the audio of the package datasets."""
    if isinstance(item, str):
        return Path(item)
    if hasattr(item, "get_all_samples"):
        samples = item.get_all_samples()
        return samples.data, samples.sample_rate
    return item


def _before(text: str, until: Sequence[str]) -> str:
    """The text before the first of the strings."""
    ends = [at for one in until if one and (at := text.find(one)) >= 0]
    return text[: min(ends, default=len(text))].strip()
