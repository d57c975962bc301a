"""The setting `attention` of components that are models of transformers: which implementation they use."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

import torch

from chatbridge.common.errors import Problem
from chatbridge.common.extras import how_to_install

Attention = Literal["sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"]
FLASH = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}  # -> its package
_MARKS = {  # implementation -> the attribute of a model class that supports it
    "sdpa": "_supports_sdpa",
    "flex_attention": "_supports_flex_attn",
    "flash_attention_2": "_supports_flash_attn",
    "flash_attention_3": "_supports_flash_attn",
}


def attention_problems(attention: Attention | None, model_class: type | None = None) -> Iterator[Problem]:
    """Reasons why an implementation cannot be used: the model family lacks it, or a package is missing.

    model_class   of transformers; None: the family is checked when it is built
    """
    if attention is None:
        return
    if model_class is not None and attention not in (able := supported(model_class)):
        message = f"{model_class.__name__} has no {attention}"
        yield Problem("attention", message, allowed=able, hint="or remove the setting for the default of the family")
        return
    package = FLASH.get(attention)
    if package is not None and find_spec(package) is None:
        hint = f"{how_to_install(package)}; or set attention to sdpa or flex_attention"
        yield Problem("attention", f"{attention} needs the package {package}", hint=hint)


def supported(model_class: type) -> tuple[str, ...]:
    """The implementations that a model class of transformers has; eager is always among them."""
    return ("eager", *(name for name, mark in _MARKS.items() if getattr(model_class, mark, False)))


def attention_obstacle(attention: Attention | None, device: torch.device, needs_gradient: bool) -> str | None:
    """The reason why an implementation does not run on a device, or None."""
    if device.type != "cpu":
        return None
    if attention in FLASH:
        return f"{attention} runs on a GPU only"
    if attention == "flex_attention" and needs_gradient:
        return "flex_attention has no backward pass on a CPU"
    return None


def with_attention(settings: Any, attention: Attention | None) -> Any:
    """A transformers configuration with this attention implementation; None: unchanged."""
    if attention is not None:
        settings._attn_implementation = attention
    return settings
