"""The chat template file of a model, used instead of the tokenizer's own template."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.errors import Problem
from chatbridge.config.constraints import missing_path

READS_IT = "hf_chat"  # the conversation template that renders a chat template


def template_strings(model: Any, name: str) -> dict[str, Any]:
    """Arguments of the conversation template `name`: the text of the chat template file, or {} without one."""
    path = getattr(model.language.config, "chat_template", None)
    return {"chat_template": path.read_text(encoding="utf-8")} if path is not None and name == READS_IT else {}


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
