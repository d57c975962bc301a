"""The messages of vLLM's `/v1/completions` for prompts that are embeddings: the body of a request, and its events.

source: vLLM's documentation, "Prompt Embedding Inputs", and the fields of its CompletionRequest
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chatbridge.conversation.stop_strings import Stops
from chatbridge.models.language import GenerateOptions

MOST_ID = 2**31 - 1
ID = "token_id:"  # what return_tokens_as_token_ids puts before the number of a token


class WireError(ValueError):
    """An event that is not one of vLLM's; str() says what it lacks."""


@dataclass(frozen=True)
class Tokens:
    """What one event of a stream brings.

    ids       the new ids, those of a stop sequence and the end token included
    logprobs  of each id, where they were asked for: its log-probability, and the most likely ids with theirs
    finish    vLLM's reason why the answer is over; None while it grows
    cached    positions of the prompt that vLLM did not compute again; None where it does not say
    """

    ids: tuple[int, ...] = ()
    logprobs: tuple[tuple[float, tuple[tuple[int, float], ...]], ...] = ()
    finish: str | None = None
    cached: int | None = None


def request_body(
    embeds: Tensor,
    options: GenerateOptions,
    stops: Stops,
    end_ids: Sequence[int],
    top_logprobs: int | None,
    model: str,
) -> bytes:
    """The JSON of a request whose answer is streamed as ids.

    embeds   float[L, D], the prompt
    stops    strings and single ids end the answer there too; longer sequences of ids are found here
    raises   ValueError for beams
    """
    if options.num_beams > 1:
        raise ValueError(
            f"num_beams is {options.num_beams}; vLLM has no beam search over prompt embeddings, set num_beams to 1"
        )
    single = [ids[0] for ids in stops.ids if len(ids) == 1] if not options.min_new_tokens else []
    body: dict[str, Any] = {
        "model": model,
        "prompt_embeds": encoded(embeds),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": options.max_new_tokens,
        "min_tokens": options.min_new_tokens,
        "temperature": options.temperature if options.sample else 0.0,
        "repetition_penalty": options.repetition_penalty,
        "stop": list(stops.strings),
        "stop_token_ids": list(dict.fromkeys((*end_ids, *single))),
        "return_token_ids": True,
        "skip_special_tokens": False,  # a stop string may be one
    }
    if options.sample:
        body |= {"top_p": options.top_p, **({"top_k": options.top_k} if options.top_k else {})}
        body |= {} if options.seed is None else {"seed": options.seed}
    if top_logprobs is not None:
        body |= {"logprobs": top_logprobs, "return_tokens_as_token_ids": True}
    return json.dumps(body).encode()


def encoded(embeds: Tensor) -> str:
    """float[L, D] as vLLM reads it: the file that torch.save writes, in base64."""
    buffer = io.BytesIO()
    torch.save(embeds.detach().cpu().contiguous().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def tokens_of(event: Any, num_top: int | None = None) -> Tokens:
    """What an event of the stream brings.

    num_top   most alternatives to keep for each id; None: log-probabilities were not asked for
    raises    WireError for an event of another shape, or one that reports an error
    """
    try:
        return _tokens_of(event, num_top)
    except WireError:
        raise
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise WireError(f"it has another shape than vLLM's ({error})") from None


def _tokens_of(event: Any, num_top: int | None) -> Tokens:
    if not isinstance(event, Mapping):
        raise WireError(f"expected a JSON object, found {type(event).__name__}")
    if "error" in event:
        raise WireError(message_of(event))
    usage = event.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, Mapping) else None
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    choices = event.get("choices")
    if not isinstance(choices, list):
        raise WireError("it has no choices")
    if not choices:  # the last event, with the usage
        return Tokens(cached=cached if type(cached) is int and cached >= 0 else None)
    choice = choices[0]
    ids, finish = choice.get("token_ids"), choice.get("finish_reason")
    if ids is None and (choice.get("text") or finish is None):
        raise WireError("it has no token_ids; this needs vLLM 0.11 or later, which knows return_token_ids")
    logprobs = tuple(_logprobs(choice.get("logprobs"), num_top, len(ids or ()))) if num_top is not None else ()
    if not all(type(one) is int and 0 <= one <= MOST_ID for one in ids or ()):
        raise WireError("its token_ids are not numbers of tokens")
    return Tokens(tuple(ids or ()), logprobs, finish, cached if type(cached) is int and cached >= 0 else None)


def message_of(content: Any) -> str:
    """The message of an error as vLLM reports it: {"error": {"message"}} or {"message"}."""
    inner = content.get("error", content) if isinstance(content, Mapping) else content
    found = inner.get("message") if isinstance(inner, Mapping) else inner
    return str(found)[:500]


def _logprobs(given: Any, num_top: int, num_ids: int) -> Iterator[tuple[float, tuple[tuple[int, float], ...]]]:
    if num_ids == 0:
        return
    if not isinstance(given, Mapping) or len(given.get("token_logprobs") or ()) != num_ids:
        raise WireError(f"it has {num_ids} token_ids, and not as many log-probabilities")
    tops = given.get("top_logprobs") or [None] * num_ids
    for own, top in zip(given["token_logprobs"], tops, strict=True):
        ranked = sorted(((_id(name), float(value)) for name, value in (top or {}).items()), key=lambda one: -one[1])
        if any(math.isnan(value) for value in (float(own), *(value for _, value in ranked))):
            raise WireError("a log-probability is not a number")
        yield float(own), tuple(ranked[:num_top])


def _id(name: str) -> int:
    if not name.startswith(ID) or not name[len(ID) :].isdigit():
        raise WireError(f"expected {ID}N for a token, found {name[:40]!r}")
    return int(name[len(ID) :])


__all__ = ["Tokens", "WireError", "encoded", "message_of", "request_body", "tokens_of"]
