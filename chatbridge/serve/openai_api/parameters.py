"""The parameters of a chat request: their types, and those of OpenAI's that have no meaning for these models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chatbridge.common.errors import nearest
from chatbridge.models.language.generate_options import MOST_SEED
from chatbridge.serve.openai_api.api_errors import MOST_FAULTS, Fault
from chatbridge.serve.openai_api.json_body import shown
from chatbridge.serve.request import MOST_TOP_LOGPROBS

MOST_STOPS, LONGEST_STOP = 16, 1000  # stop strings of a request, and characters of one
MOST_TOKENS = 2**31
LONGEST_S = 1e9


@dataclass(frozen=True)
class Kind:
    """What a parameter accepts."""

    words: str
    accepts: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(low: float, high: float) -> Kind:
    return Kind(f"a number from {low:g} to {high:g}", lambda value: _is_number(value) and low <= value <= high)


def _whole(low: int, high: int = MOST_TOKENS) -> Kind:
    words = f"a whole number of at least {low}" if high >= MOST_TOKENS else f"a whole number from {low} to {high}"

    def accepts(value: Any) -> bool:
        return _is_number(value) and low <= value <= high and value == int(value)

    return Kind(words, accepts)


def _is_stop(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_STOP


TEXT, SWITCH = Kind("a string", lambda value: isinstance(value, str)), Kind("true or false", lambda v: type(v) is bool)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
STOPS = Kind(
    f"a string of 1 to {LONGEST_STOP} characters, or a list of at most {MOST_STOPS} of them",
    lambda value: (
        _is_stop(value) or (isinstance(value, list) and len(value) <= MOST_STOPS and all(map(_is_stop, value)))
    ),
)
ACCEPTED: dict[str, Kind] = {
    "model": TEXT,
    "messages": Kind("a list of messages", lambda value: isinstance(value, list)),
    "stream": SWITCH,
    "stream_options": OBJECT,
    "max_tokens": _whole(1),
    "max_completion_tokens": _whole(1),
    "temperature": _number(0, 100),
    "top_p": _number(0, 1),
    "seed": Kind(
        "a whole number of 64 bits", lambda value: type(value) is int and -MOST_SEED - 1 <= value <= MOST_SEED
    ),
    "stop": STOPS,
    "n": _whole(1),
    "logprobs": SWITCH,
    "top_logprobs": _whole(0, MOST_TOP_LOGPROBS),
    # not of OpenAI; with its client these are keys of extra_body
    "min_tokens": _whole(0),
    "top_k": _whole(-1),
    "num_beams": _whole(1, 64),
    "repetition_penalty": _number(0.01, 100),
    "length_penalty": _number(-100, 100),
    "max_drawings": _whole(0),
    "time_limit_s": Kind("a number above 0", lambda value: _is_number(value) and 0 < value < LONGEST_S),
}
WITHOUT_EFFECT = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
# of OpenAI, without a meaning here: accepted only with the values that ask for nothing
ONLY: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
INSTEAD = {"frequency_penalty": "repetition_penalty", "presence_penalty": "repetition_penalty"}
OTHER_NAMES = {"max_new_tokens": "max_completion_tokens", "min_new_tokens": "min_tokens", "best_of": "num_beams",
               "prompt": "messages", "stops": "stop", "do_sample": "temperature", "sample": "temperature"}  # fmt: skip


def checked_parameters(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """The parameters that have a meaning, without those that are null; and everything that is wrong with them."""
    found, faults = {}, []
    for name, value in given.items():
        fault = _fault(name, value, is_named=len(faults) < MOST_FAULTS)
        if fault is not None:
            faults.append(fault)
        elif name in ACCEPTED and value is not None:
            found[name] = value
    faults += [
        Fault(name, "is missing", "missing_required_parameter")
        for name in ("model", "messages")
        if given.get(name) is None
    ]
    return found, faults or _contradictions(found)


def _fault(name: str, value: Any, is_named: bool) -> Fault | None:
    """is_named   the message will be read; otherwise no name that is near is looked for, which takes a while"""
    if name in WITHOUT_EFFECT or (value is None and (name in ACCEPTED or name in ONLY)):
        return None
    if (kind := ACCEPTED.get(name)) is not None:
        return None if kind.accepts(value) else Fault(name, f"expected {kind.words}, got {shown(value)}")
    if name in ONLY:
        if any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in ONLY[name]):
            return None
        advice = f"use {INSTEAD[name]}" if name in INSTEAD else "leave it out"
        return Fault(name, f"is not supported by this server; {advice}", "unsupported_parameter")
    meant = OTHER_NAMES.get(name) or (nearest(name, [*ACCEPTED, *WITHOUT_EFFECT]) if is_named else None)
    advice = f"did you mean {meant}?" if meant else f"parameters: {', '.join(ACCEPTED)}"
    return Fault(name[:100], f"is not a parameter of this server; {advice}", "unknown_parameter")


def _contradictions(found: Mapping[str, Any]) -> list[Fault]:
    """Mistakes that one parameter alone does not show."""
    faults = []
    longest = {found[name] for name in ("max_tokens", "max_completion_tokens") if name in found}
    if len(longest) > 1:
        faults.append(Fault("max_tokens", "differs from max_completion_tokens, which means the same; give one of them"))
    if longest and found.get("min_tokens", 0) > min(longest):
        faults.append(Fault("min_tokens", f"is {found['min_tokens']}, above max_completion_tokens, {min(longest)}"))
    if "top_logprobs" in found and not found.get("logprobs"):
        faults.append(Fault("top_logprobs", "has no effect without logprobs; set logprobs to true"))
    if "stream_options" in found and not found.get("stream"):
        faults.append(Fault("stream_options", "has no effect without stream; set stream to true, or leave it out"))
    for name, value in found.get("stream_options", {}).items():
        where = f"stream_options.{name[:100]}"
        if name not in ("include_usage", "include_obfuscation"):
            faults.append(Fault(where, "is not an option; did you mean include_usage?", "unknown_parameter"))
        elif value is not None and type(value) is not bool:
            faults.append(Fault(where, f"expected true or false, got {shown(value)}"))
    return faults


__all__ = ["ACCEPTED", "checked_parameters"]
