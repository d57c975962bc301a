"""Settings of a model's conversation template, and the chat template file used instead of the tokenizer's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.constraints import missing_path
from chatbridge.config.schema import parse
from chatbridge.conversation.templates import TEMPLATES

READS_IT = "hf_chat"  # the conversation template that renders a chat template


def template_strings(model: Any, name: str) -> dict[str, Any]:
    """Arguments of the conversation template `name`: its settings if it is the language model's own, and the text of
    the chat template file."""
    config = model.language.config
    path = getattr(config, "chat_template", None)
    own = dict(getattr(config, "template_settings", {})) if name == getattr(config, "template", None) else {}
    return own | ({"chat_template": path.read_text(encoding="utf-8")} if path is not None and name == READS_IT else {})


def template_settings_problems(settings: Mapping[str, Any], template: str | None) -> Iterator[Problem]:
    """Problems of the setting `template_settings` of the template `template`."""
    if not settings:
        return
    if template is None:
        yield Problem("template_settings", "has no template whose settings these are", hint="set template")
    elif template in TEMPLATES.names():
        try:
            parse(cast("Any", TEMPLATES.get(template)).Config, settings, path="template_settings")
        except ConfigError as error:
            yield from error.problems


def chat_template_problems(path: Path | None, template: str | None) -> Iterator[Problem]:
    """Problems of the setting `chat_template`, alone and in combination with `template`."""
    if path is None:
        return
    if (missing := missing_path(path, "file")) is not None:
        yield Problem("chat_template", missing.message, nearest=missing.nearest, hint=missing.hint)
        return
    if template not in (None, READS_IT):
        message = f"is read by the template {READS_IT} only, and template is {template!r}"
        yield Problem("chat_template", message, hint=f"set template: {READS_IT}, or leave chat_template out")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        yield Problem("chat_template", f"{path} is not UTF-8 text: {error}")
        return
    if not text.strip():
        yield Problem("chat_template", f"{path} is empty")


def changed_chat_template(now: Mapping[str, Any] | None, manifest: Mapping[str, Any]) -> list[str]:
    """A table line when the text of the file differs from that of the checkpoint; otherwise nothing."""
    then, text = (manifest.get("template") or {}).get("chat_template"), (now or {}).get("chat_template")
    if then == text or not (then and text):
        return []
    return [f"  chat template: fingerprint {_fingerprint(then)} then, {_fingerprint(text)} now"]


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
