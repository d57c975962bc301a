"""Find and replace modules of a transformers language model, whose names differ between families."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma 2; RecurrentGemma; xLSTM


def decoder_layers(lm: Any) -> nn.ModuleList:
    """The outermost ModuleList with as many modules as the configuration has layers, of any name.

    raises   ValueError with the lists that were found when there is none
    """
    wanted = getattr(lm.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = {name: one for name, one in lm.base_model.named_modules() if isinstance(one, nn.ModuleList)}
    found = {name: one for name, one in lists.items() if len(one) == wanted}
    if not found:
        there = ", ".join(f"{name} of {len(one)}" for name, one in lists.items() if "." not in name) or "none"
        raise ValueError(
            f"{type(lm).__name__}: no decoder layers found; looked for a ModuleList of num_hidden_layers = {wanted} "
            f"modules, found {there}. A fusion inside the language model needs them; choose a different language "
            "model, or `fusion: {name: inline}`"
        )
    return found[min(found, key=lambda name: name.count("."))]


_KINDS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)  # fmt: skip


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Register the hooks of each module of `old` on the module of `new` with the same name; `new` will replace it."""
    modules = dict(new.named_modules())
    for name, module in old.named_modules():
        for kind in _KINDS:
            getattr(modules[name], kind).update(getattr(module, kind))


def cache_argument(lm: Any) -> str | None:
    """The name of the cache argument of `forward`; None if the model has no cache that a caller can keep."""
    parameters = inspect.signature(type(lm.base_model).forward).parameters
    return next((name for name in ("past_key_values", "cache_params") if name in parameters), None)


def scaled_logits(lm: Any, logits: Tensor) -> Tensor:
    """The output of the head, float[..., V], with the factor and the soft cap of the model family, float[..., V].

    source   huggingface/transformers: the forward of each family's ForCausalLM, for example models/gemma2
    """
    settings = lm.config
    factor = getattr(lm, "logit_scale", getattr(settings, "lm_head_multiplier", None))  # Cohere; Falcon-H1
    scaling = getattr(settings, "logits_scaling", None)
    if scaling is not None:  # Granite and MiniCPM3 divide by it, HyperCLOVA X multiplies
        factor = scaling if settings.model_type.startswith("hyperclovax") else 1.0 / scaling
    logits = logits if factor is None else factor * logits
    cap = next((found for name in CAPS if (found := getattr(settings, name, None)) is not None), None)
    return logits if cap is None else cap * torch.tanh(logits / cap)
