"""Where the decoder layers of a transformers model are, found by structure: families name them differently."""

from __future__ import annotations

from typing import Any

from torch import nn


def decoder_layers(lm: Any) -> nn.ModuleList:
    """The outermost list of as many modules as the configuration has layers, whether named `layers`, `h` or `blocks`.

    raises   ValueError that says what was looked for and which lists there are
    """
    wanted = getattr(lm.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = {name: one for name, one in lm.base_model.named_modules() if isinstance(one, nn.ModuleList)}
    found = {name: one for name, one in lists.items() if len(one) == wanted}
    if not found:
        there = ", ".join(f"{name} of {len(one)}" for name, one in lists.items() if "." not in name) or "none"
        raise ValueError(
            f"{type(lm).__name__}: no decoder layers found; looked for a ModuleList of num_hidden_layers = {wanted} "
            f"modules, found {there}. A fusion inside the language model needs them; choose another language model, "
            "or `fusion: {name: inline}`"
        )
    return found[min(found, key=lambda name: name.count("."))]


_KINDS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)  # fmt: skip


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Put the hooks of each module of `old` on the module of `new` that has its name: `new` takes its place."""
    modules = dict(new.named_modules())
    for name, module in old.named_modules():
        for kind in _KINDS:
            getattr(modules[name], kind).update(getattr(module, kind))
