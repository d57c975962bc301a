"""Prompts and templates: end_sym, max_txt_len, prompt_path, prompt_template, stage, prompt."""

from __future__ import annotations

from pathlib import Path

from chatbridge.cli.migrate.migration import Migration
from chatbridge.config.shipped import SHIPPED

TEMPLATE = {  # family -> template of its base, prompt_template, end_sym, max_txt_len
    "minigpt4": ("minigpt4_vicuna0", "###Human: {} ###Assistant: ", "###", 160),
    "minigpt4_llama2": ("minigpt4_llama2", "[INST] {} [/INST] ", "</s>", 160),
}
STAGE1_END, STAGE1_LENGTH = "\n", 32  # defaults of the model classes
INSTRUCTBLIP_LENGTH = 256


def is_first_stage(m: Migration) -> bool:
    """Whether training has captions without any prompt."""
    if m.family.is_chatbridge:
        return m.original.get("model", "stage") != 2
    return m.family.is_minigpt4 and not m.original.get("model", "prompt_path")


def prompt_rows(m: Migration) -> None:
    """Rows of the keys that decide on the token sequences."""
    if m.family.is_lavis:
        _lavis(m)
    elif m.family.is_chatbridge:
        _chatbridge(m)
    else:
        _minigpt4(m)
    if m.has("model.prompt"):
        if m.value("model.prompt") in ("", None):
            m.not_needed("model.prompt", "empty")
        elif not m.family.is_lavis:
            m.not_needed("model.prompt", "the original does not use it")


def _minigpt4(m: Migration) -> None:
    if m.is_training and is_first_stage(m):
        _caption(m)
        m.not_needed("model.prompt_path", "none is named: captions without a prompt")
        m.not_needed("model.prompt_template", "it has an effect with prompt_path only")
        return
    name, form, end, length = TEMPLATE[m.family.name]
    settings = {}
    if m.has("model.prompt_template"):
        given = str(m.value("model.prompt_template") or "")
        if given.strip() == form.strip() or not given:
            m.taken("model.prompt_template", f"model.language.template: {name}")
        elif given.count("{}") == 1:
            before, after = given.split("{}")
            settings |= {"user": before, "assistant": after}
            m.taken("model.prompt_template", "model.language.template_settings: user, assistant")
        else:
            m.no_equal("model.prompt_template", "it has no single place {} for the question; see template_settings")
    if m.has("model.end_sym"):
        _end_sym(m, name, end, settings)
    if m.has("model.max_txt_len"):
        if not m.is_training:
            m.not_needed("model.max_txt_len", "nothing is trained; max_new_tokens limits an answer")
        elif m.value("model.max_txt_len") == length:
            m.taken("model.max_txt_len", f"model.language.template: {name} (answers of {length} tokens)")
        else:
            settings["max_tokens"] = m.value("model.max_txt_len")
            m.taken("model.max_txt_len", f"model.language.template_settings.max_tokens: {settings['max_tokens']}")
    if settings:
        m.target.set("model.language.template_settings", settings)
    if m.has("model.prompt_path") and not m.is_training:
        m.not_needed("model.prompt_path", "nothing is trained; tasks name their prompts")


def _end_sym(m: Migration, name: str, end: str, settings: dict) -> None:
    if m.value("model.end_sym") == end:
        m.taken("model.end_sym", f"model.language.template: {name}")
    elif name == "minigpt4_llama2":
        m.no_equal("model.end_sym", "the template of Llama-2 ends each answer with </s>; choose another template")
    else:
        settings["end_sym"] = m.value("model.end_sym")
        m.taken("model.end_sym", f"model.language.template_settings.end_sym: {settings['end_sym']!r}")


def _caption(m: Migration) -> None:
    """The first stage: `<s> media caption end`, of at most 32 tokens unless the file has other values."""
    end = m.original.get("model", "end_sym")
    length = m.original.get("model", "max_txt_len")
    settings = {}
    if end is not None and end != STAGE1_END:
        settings["end_sym"] = end
    if length is not None and length != STAGE1_LENGTH:
        settings["max_tokens"] = length
    if settings:
        m.target.set("model.language.template", "caption")
        m.target.set("model.language.template_settings", settings)
    m.implied.append((m.set("data.template", "caption"), "captions follow their media without a prompt"))
    for key, name in (("model.end_sym", "end_sym"), ("model.max_txt_len", "max_tokens")):
        if m.has(key):
            here = f"model.language.template_settings.{name}" if name in settings else "data.template: caption"
            m.taken(key, here)


def _chatbridge(m: Migration) -> None:
    first = is_first_stage(m)
    if m.has("model.stage"):
        here = "data.template: caption" if first and m.is_training else "model.language.template: vicuna_v0"
        m.changed("model.stage", here, "a template writes the token sequence; there are no stages")
    if m.is_training and first:
        _caption(m)
    if m.has("model.max_txt_len"):
        if m.is_training:
            note = "text and media of a sequence, <s> not counted; it is cut after an answer, never inside media"
            m.move("model.max_txt_len", "data.max_tokens", note)
        else:
            m.not_needed("model.max_txt_len", "prompts are not cut; the context length of the model is the limit")
    if m.has("model.end_sym"):
        m.taken("model.end_sym", "model.language.template: vicuna_v0 (it ends each answer)")
    if m.has("model.prompt_template"):
        m.not_needed("model.prompt_template", "the original does not use it; vicuna_v0 writes the turns")
    if m.has("model.prompt_path"):
        _prompt_list(m, "multis.json", "the builders draw from the published prompts")


def _prompt_list(m: Migration, shipped: str, note: str) -> None:
    """A list of prompts: the shipped one where it has the same content."""
    text = str(m.value("model.prompt_path"))
    found = m.found(text)
    own = next((root / "prompts" / shipped for root in SHIPPED if (root / "prompts" / shipped).is_file()), None)
    if found is None or (own is not None and _same(Path(found), own)):
        why = note if found is not None else f"{note}; {text} is not here: compare yours with configs/prompts/{shipped}"
        m.changed("model.prompt_path", f"configs/prompts/{shipped}", why)
        return
    m.prompts = found
    m.changed(
        "model.prompt_path", f"data.sources.<name>.prompts: {found}", "your list, for every source that has prompts"
    )


def minigpt4_prompts(m: Migration, source: str) -> None:
    """prompts/alignment.txt of MiniGPT-4's second stage, for the source of its descriptions."""
    if not m.has("model.prompt_path"):
        return
    _prompt_list(m, "minigpt4_alignment.txt", "one prompt is drawn per sample, where it was one per batch")
    if m.prompts is not None:
        m.target.set(f"data.sources.{source}.prompts", m.prompts)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.read_text(encoding="utf-8").split() == other.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return False


def _lavis(m: Migration) -> None:
    for key in ("model.max_txt_len", "model.max_output_txt_len"):
        if m.has(key) and m.is_training:
            m.target.set("model.language.template_settings", {"max_tokens": m.value(key)})
            m.taken(key, f"model.language.template_settings.max_tokens: {m.value(key)}")
        elif m.has(key):
            m.not_needed(key, "nothing is trained")
    if m.family.name == "instructblip":
        m.target.set("model.language.template", "caption")
        why = "media, then the text as it is, as in InstructBLIP; Vicuna v1.1, not v0, is its language model"
        m.implied.append(("model.language.template: caption", why))
        if m.is_training and "model.language.template_settings" not in m.target.settings:
            why = "of an answer, as in InstructBLIP, with a line break at its end, where it had </s>"
            m.imply("model.language.template_settings", {"max_tokens": INSTRUCTBLIP_LENGTH}, why)
