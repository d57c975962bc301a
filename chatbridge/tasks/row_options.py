"""Generation settings that the record of a question gives for its own answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.common.errors import MediaError
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.answer_options import changed
from chatbridge.tasks.settings import TaskConfig

STOP = "stop"  # beside the settings of GenerateOptions: a text, or a list of texts


@dataclass(frozen=True)
class RowOptions:
    """How one question is answered.

    stop   strings before which the answer ends, besides those of the template
    """

    options: GenerateOptions
    stop: tuple[str, ...] = ()

    @property
    def group(self) -> tuple[Any, ...]:
        """Questions with the same one are generated together; all else may differ within a batch."""
        return self.options.max_new_tokens, self.options.num_beams, self.stop


def row_options(config: TaskConfig, index: int, given: Mapping[str, Any], room: int | None) -> RowOptions:
    """The settings of the task with those of the record.

    index    of the question, from which its seed derives unless the record has one
    room     most tokens that fit after the prompt; None: no limit
    raises   MediaError for settings that do not exist, or contradict each other
    """
    longest = given.get("max_new_tokens", config.max_new_tokens)
    if not isinstance(longest, int) or isinstance(longest, bool):
        longest = config.max_new_tokens  # `changed` names the mistake
    longest = longest if room is None else min(longest, room)
    made = config.generation(max(longest, 1), index)
    if not given:
        return RowOptions(made)
    settings = {name: value for name, value in given.items() if name != STOP}
    try:
        made = changed(made, settings)
    except (TypeError, ValueError) as error:
        raise MediaError(f"options: {str(error).removeprefix('GenerateOptions: ')}") from None
    made = replace(made, max_new_tokens=longest, min_new_tokens=min(made.min_new_tokens, longest))
    return RowOptions(made, _stop_of(given.get(STOP, ())))


def _stop_of(given: Any) -> tuple[str, ...]:
    """raises MediaError"""
    texts = (given,) if isinstance(given, str) else given
    if not isinstance(texts, (list, tuple)) or not all(isinstance(one, str) and one for one in texts):
        raise MediaError(f"options: stop is {given!r}, expected a text or a list of texts that are not empty")
    return tuple(texts)


__all__ = ["RowOptions", "row_options"]
