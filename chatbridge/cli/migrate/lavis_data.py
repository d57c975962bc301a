"""The section datasets of a training: LAVIS's builders and MiniGPT-4's as sources."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from chatbridge.cli.migrate.lavis_processors import processor_rows, request_rows
from chatbridge.cli.migrate.migration import Migration
from chatbridge.cli.migrate.prompts import minigpt4_prompts
from chatbridge.cli.migrate.shares import share_rows
from chatbridge.common.errors import nearest
from chatbridge.config.origins import MISSING

CARDS = {  # MiniGPT-4's data sets with a shipped file -> the source in it, and the setting that holds their path
    "laion": ("minigpt4_laion", "shards"),
    "cc_sbu": ("minigpt4_cc_sbu", "shards"),
    "cc_sbu_align": ("minigpt4_cc_sbu_align", ""),
}
MIXTURE = ("mixtures/minigpt4_alignment.yaml", {"laion", "cc_sbu"})


@dataclass(frozen=True)
class SourceForm:
    """The source that reads what a builder of LAVIS reads."""

    builder: str
    tag: str = ""
    format: str = ""
    folder: str = "image_folder"
    settings: dict[str, Any] = field(default_factory=dict)


_CAPTIONS = SourceForm("captions", "ti", "coco_caption")
_QUESTIONS = SourceForm("questions", "ti-qa", "vqa")
_VIDEO_QUESTIONS = SourceForm("questions", "tv-qa", "vqa", "video_folder")
_SHARDS = SourceForm("web_pairs", settings={"modality": "image", "text": "json", "cleaner": "minigpt4"})
FORMS = {
    **dict.fromkeys(("coco_caption", "vg_caption", "sbu_caption"), _CAPTIONS),
    **dict.fromkeys(("conceptual_caption_3m", "conceptual_caption_12m"), _CAPTIONS),
    **dict.fromkeys(("coco_vqa", "vg_vqa", "ok_vqa", "okvqa", "gqa"), _QUESTIONS),
    **dict.fromkeys(("msrvtt_qa", "msvd_qa"), _VIDEO_QUESTIONS),
    **dict.fromkeys(("laion2B_multi", "laion400M", "laion", "cc_sbu"), _SHARDS),
    **dict.fromkeys(("aok_vqa", "aokvqa"), SourceForm("questions", "ti-qa", "aokvqa")),
    **dict.fromkeys(("ocr_vqa", "ocrvqa"), SourceForm("questions", "ti-qa", "ocrvqa")),
    **{f"llava_{name}": SourceForm("dialogues", f"ti-{tag}", "llava", settings={"file_prefix": "COCO_train2014_"})
       for name, tag in (("conversation", "conv"), ("detail", "det"), ("reason", "rea"))},
}  # fmt: skip
FORM_HINT = (
    "describe its files as a source: data.sources.<name>: {name: records, ...} reads JSON lines of any conversations "
    "(docs/your_own_data.md); docs/migrating.md shows what becomes of a builder"
)


def data_rows(m: Migration) -> None:
    """Rows of the section datasets, of run.train_dataset_ratios and run.task_config."""
    names = list(m.original.mapping("datasets"))
    m.no_equal("run.task_config", "the sources of a mix have weights, and an evaluation has its own file: write both")
    if not names:
        m.implied.append((m.set("data.sources", {}), "the old file has no data sets"))
        return
    uses_cards = m.family.is_minigpt4 and set(names) <= set(CARDS)
    sources: dict[str, list[str]] = {}
    if uses_cards and set(names) == MIXTURE[1]:
        m.target.bases.append(MIXTURE[0])
    for name in names:
        if uses_cards:
            sources[name] = [_card(m, name)]
        elif name in FORMS:
            sources[name] = _source(m, name, FORMS[name])
        else:
            guess = nearest(name, FORMS)
            m.no_equal(f"datasets.{name}", FORM_HINT + (f". Nearest known: {guess}" if guess else ""))
    share_rows(m, {name: own for name, own in sources.items() if own})
    _model_prompt(m, [one for own in sources.values() for one in own])


def _card(m: Migration, name: str) -> str:
    """A data set of MiniGPT-4 that a shipped file describes. Returns the name of its source"""
    source, setting = CARDS[name]
    if f"datasets/{source}.yaml" not in m.target.bases and MIXTURE[0] not in m.target.bases:
        m.target.bases.append(f"datasets/{source}.yaml")
    at, key = f"data.sources.{source}", f"datasets.{name}.build_info.storage"
    if m.has(key):
        text = str(m.value(key))
        if _exists(m, text):
            paths = {"": text} if setting else {"annotations": "filter_cap.json", "image_folder": "image"}
            here = [m.set(f"{at}.{setting}", text)] if setting else [
                m.set(f"{at}.{one}", f"{text.rstrip('/')}/{inside}") for one, inside in paths.items()
            ]  # fmt: skip
            m.taken(key, ", ".join(here))
        else:
            note = f"the path of the shipped file is used: put or link the data there (dataset_prep/cards/{source}.md)"
            m.changed(key, f"base: datasets/{source}.yaml", f"{text} is not here; {note}")
    processor_rows(m, name, source, cleans=bool(setting))
    if name == "cc_sbu_align":
        minigpt4_prompts(m, source)
    return source


def _exists(m: Migration, text: str) -> bool:
    """Whether a path exists; of tars, {00000..01255}.tar, their folder."""
    folder = re.split(r"/[^/]*[{*]", text)[0]
    return m.found(folder) is not None


def _source(m: Migration, name: str, form: SourceForm) -> list[str]:
    """A data set of LAVIS as sources, one per file of its training split. Returns their names"""
    key = re.sub(r"\W", "_", name)
    files = _training_files(m, name)
    names = [key] if len(files) < 2 else [f"{key}_{number + 1}" for number in range(len(files))]
    for source, file in zip(names, files or [MISSING], strict=False):
        at = f"data.sources.{source}"
        m.target.set(f"{at}.name", form.builder)
        for setting, value in form.settings.items():
            m.target.set(f"{at}.{setting}", value)
        if form.builder == "web_pairs":
            m.target.set(f"{at}.shards", file)
            continue
        m.target.set(f"{at}.format", form.format)
        m.target.set(f"{at}.tag", form.tag)
        m.target.set(f"{at}.annotations", file)
    _folders(m, name, names, form)
    processor_rows(m, name, key, cleans=form.builder == "web_pairs")
    request_rows(m, name, names, form.builder)
    return names


def _training_files(m: Migration, name: str) -> list[str]:
    """The files of the training split; rows of all files of the data set."""
    at, files = f"datasets.{name}.build_info", []
    for key in ("storage", "ann_path"):
        if m.has(f"{at}.{key}"):
            files.append(_file(m, f"{at}.{key}", str(m.value(f"{at}.{key}"))))
    splits = m.original.mapping("datasets", name, "build_info", "annotations")
    for split in splits:
        here = f"{at}.annotations.{split}"
        for word in ("url", "md5"):
            m.not_needed(
                f"{here}.{word}", "nothing is downloaded by a run; the cards of dataset_prep have the addresses"
            )
        given = m.value(f"{here}.storage")
        if split == "train" and given is not None:
            several = given if isinstance(given, list) else [given]
            found = [m.found(str(one)) or (str(one) if m.keep_paths else MISSING) for one in several]
            files += found
            note = "" if MISSING not in found else "a path below LAVIS's cache that is not here: give yours"
            shown = f"data.sources.{re.sub(r'[^a-zA-Z0-9_]', '_', name)}.annotations: {', '.join(found)}"
            m.changed(f"{here}.storage", shown, note or "one source per file") if note or len(found) > 1 else m.taken(
                f"{here}.storage", shown
            )
        else:
            m.not_needed(here, f"the split {split} is no training data: name it in a task of an evaluation")
    return files


def _file(m: Migration, key: str, text: str) -> str:
    written = text if _exists(m, text) or m.keep_paths else MISSING
    if written == MISSING:
        m.changed(key, f"data.sources: {MISSING}", f"{text} is not here: give your path")
    else:
        m.taken(key, f"data.sources: {written}")
    return written


def _folders(m: Migration, name: str, sources: list[str], form: SourceForm) -> None:
    at = f"datasets.{name}.build_info"
    for key in (f"{at}.images.storage", f"{at}.videos.storage", f"{at}.audios.storage", f"{at}.image_path"):
        if not m.has(key):
            continue
        setting = {"videos": "video_folder", "audios": "audio_folder"}.get(key.split(".")[-2], form.folder)
        text = str(m.value(key))
        found = m.found(text) or (text if m.keep_paths else MISSING)
        here = ", ".join(m.set(f"data.sources.{source}.{setting}", found) for source in sources)
        m.taken(key, here) if found != MISSING else m.changed(key, here, f"{text} is not here: give your folder")
    for source in sources:
        if form.builder != "web_pairs" and f"data.sources.{source}.{form.folder}" not in m.target.settings:
            m.target.set(f"data.sources.{source}.{form.folder}", MISSING)
    for split in list(m.original.mapping("datasets", name, "build_info")):
        m.no_equal(f"{at}.{split}", "no setting of a source; see docs/your_own_data.md")


def _model_prompt(m: Migration, sources: list[str]) -> None:
    """model.prompt of a LAVIS model, for every source of questions."""
    if not m.has("model.prompt"):
        return
    asked = str(m.value("model.prompt")).replace("{}", "<QUESTION>")
    fits = [one for one in sources if m.target.settings.get(f"data.sources.{one}.name") == "questions"]
    if not fits or asked.count("<QUESTION>") != 1:
        m.no_equal("model.prompt", "write it as data.sources.<name>.prompt, with <QUESTION> where the question is")
        return
    here = [m.set(f"data.sources.{one}.prompt", asked) for one in fits]
    m.changed("model.prompt", ", ".join(here), "<QUESTION> is the place of the question, {} in LAVIS")
