"""A chat request, checked: what is asked, and how the answer is generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.common.errors import nearest
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.answer_options import changed
from chatbridge.models.language.generate_options import MOST_SEED
from chatbridge.serve.openai_api.api_errors import ApiError, Fault
from chatbridge.serve.openai_api.json_body import shown
from chatbridge.serve.openai_api.messages import ApiMessage, messages_of
from chatbridge.serve.openai_api.parameters import checked_parameters
from chatbridge.serve.openai_api.settings import ServerSettings
from chatbridge.serve.request import RequestSettings

NAMES = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens", "min_tokens": "min_new_tokens"}
OPTIONS = ("temperature", "top_p", "top_k", "num_beams", "repetition_penalty", "length_penalty", "max_drawings", "seed")


@dataclass(frozen=True)
class ChatRequest:
    """What a request asks for.

    options   one per choice: with a seed, the k-th choice uses seed + k
    """

    messages: tuple[ApiMessage, ...]
    options: tuple[GenerateOptions, ...]
    settings: RequestSettings
    is_streamed: bool = False
    with_usage: bool = False


def chat_request(
    given: Mapping[str, Any], server: ServerSettings, default: GenerateOptions, model_names: tuple[str, ...]
) -> ChatRequest:
    """The request of a JSON object.

    default  generation settings that the request does not name
    raises   ApiError 400 with everything that is wrong, 404 for a model that is not served here
    """
    found, faults = checked_parameters(given)
    messages: tuple[ApiMessage, ...] = ()
    if isinstance(given.get("messages"), list):
        messages, more = messages_of(given["messages"], server.max_messages)
        faults += more
    if found.get("n", 1) > server.max_choices:
        faults.append(Fault("n", f"is {found['n']}, more than the {server.max_choices} of this server"))
    if faults:
        raise ApiError.of_faults(faults)
    check_model(found["model"], model_names)
    return ChatRequest(
        messages,
        _per_choice(_options(found, default), int(found.get("n", 1))),
        _settings(found, server),
        bool(found.get("stream")),
        bool(found.get("stream_options", {}).get("include_usage")),
    )


def check_model(name: str, served: tuple[str, ...]) -> None:
    """raises ApiError 404 with the nearest name for a model that is not served"""
    if name not in served:
        meant = nearest(name, served)
        advice = f"did you mean {meant}? " if meant else ""
        text = f"the model {shown(name)} does not exist here; {advice}this server has {', '.join(served)}"
        raise ApiError(404, text, "model", "model_not_found")


def _options(found: Mapping[str, Any], default: GenerateOptions) -> GenerateOptions:
    """The generation settings of a request; see `answer_options.changed`.

    As with OpenAI, temperature 0 and top_p 0 mean the most likely tokens, whatever the other settings of sampling are;
    top_p or top_k without a temperature sample too.
    """
    given = {name: found[name] for name in OPTIONS if name in found}
    given |= {NAMES[name]: int(found[name]) for name in NAMES if name in found}
    given |= {name: int(given[name]) for name in ("top_k", "num_beams", "max_drawings") if name in given}
    if given.get("top_k") == -1:
        given["top_k"] = 0
    if "seed" in given:
        given["seed"] &= MOST_SEED  # negative ones too
    if given.get("top_p") == 0 or given.get("temperature") == 0:
        given = {name: value for name, value in given.items() if name not in ("top_p", "top_k")} | {"temperature": 0}
    elif "temperature" not in given and (given.get("top_p", 1) < 1 or given.get("top_k")):
        given["temperature"] = default.temperature
    if given.get("num_beams", default.num_beams) == 1 and given.get("length_penalty") == 1:
        del given["length_penalty"]
    if "max_new_tokens" in given:
        default = replace(default, min_new_tokens=min(default.min_new_tokens, given["max_new_tokens"]))
    try:
        return changed(default, given)
    except (TypeError, ValueError) as error:
        message = str(error).removeprefix("GenerateOptions: ")
        name = next((one for one in given if message.startswith(one)), None)
        api_name = next((one for one, ours in NAMES.items() if ours == name and one in found), name)
        text = f"{api_name}{message.removeprefix(name)}" if name and api_name else message
        raise ApiError(400, text, api_name, "invalid_value") from None


def _per_choice(options: GenerateOptions, count: int) -> tuple[GenerateOptions, ...]:
    if options.seed is None:
        return (options,) * count
    return tuple(replace(options, seed=(options.seed + k) % (MOST_SEED + 1)) for k in range(count))


def _settings(found: Mapping[str, Any], server: ServerSettings) -> RequestSettings:
    stop = found.get("stop", ())
    limits = [one for one in (found.get("time_limit_s"), server.time_limit_s) if one is not None]
    return RequestSettings(
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        top_logprobs=int(found.get("top_logprobs", 0)) if found.get("logprobs") else None,
        time_limit_s=float(min(limits)) if limits else None,
    )


__all__ = ["ChatRequest", "chat_request", "check_model"]
