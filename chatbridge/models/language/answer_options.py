"""Generation settings of a chat, as a section of a YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from chatbridge.common.errors import Problem
from chatbridge.config.constraints import Range
from chatbridge.models.language.generate_options import GenerateOptions, checked_names

SAMPLING = ("temperature", "top_p", "top_k")  # settings without effect on a greedy answer

NEEDS = {"length_penalty": "num_beams above 1", "max_drawings": "num_beams: 1"}  # what a setting has no effect without


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(GenerateOptions):
    """How a chat generates its answers: `chatbridge chat`, the demo and `ChatEngine.reply` start from these."""

    max_new_tokens: Annotated[int, Range(low=1)] = 256  # length of the longest answer

    def problems(self) -> Iterator[Problem]:
        """Settings without effect."""
        for name in idle_settings(self):
            needs = NEEDS.get(name, "sample: true")
            yield Problem(name, f"has no effect without {needs}", hint=f"set {needs}, or remove it")


def idle_settings(options: GenerateOptions) -> tuple[str, ...]:
    """The names of settings that differ from their default and have no effect."""
    default = {one.name: one.default for one in fields(GenerateOptions)}
    idle = [name for name in SAMPLING if not options.sample and getattr(options, name) != default[name]]
    if options.num_beams == 1 and options.length_penalty != default["length_penalty"]:
        idle.append("length_penalty")
    if options.num_beams > 1 and options.max_drawings is not None:
        idle.append("max_drawings")
    return tuple(idle)


def changed(options: GenerateOptions, settings: Mapping[str, Any]) -> GenerateOptions:
    """Options with some settings replaced, as people write them: a temperature turns sampling on, 0 turns it off.

    raises   TypeError for a setting that does not exist or has the wrong type, ValueError for a value out of range, or
             a setting that would have no effect
    """
    settings = dict(checked_names(settings))
    temperature = settings.get("temperature")
    if temperature == 0 and not isinstance(temperature, bool):
        settings = {"sample": False, "top_p": 1.0, "top_k": 0, **settings, "temperature": 1.0}
    elif temperature is not None:
        settings.setdefault("sample", True)
    elif settings.get("sample") is False:
        settings = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, **settings}
    made = replace(options, **settings)
    for name in idle_settings(made):
        if name in settings:
            needs = NEEDS.get(name, "sampling, which a temperature above 0 turns on")
            raise ValueError(f"{name} has no effect without {needs}")
    return made


def options_from(
    options: GenerateOptions | Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    default: GenerateOptions | None = None,
) -> GenerateOptions:
    """Options with single settings replaced.

    default  used without options, and completes a mapping
    raises   TypeError for a setting that does not exist, ValueError for a value out of range
    """
    if isinstance(options, GenerateOptions):
        return replace(options, **checked_names(settings)) if settings else options
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options are GenerateOptions or a mapping of its settings, found {type(options).__name__}")
    return replace(default or AnswerOptions(), **checked_names({**(options or {}), **settings}))
