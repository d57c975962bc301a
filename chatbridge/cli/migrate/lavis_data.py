"""The section datasets of a training: LAVIS's builders and MiniGPT-4's as sources."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from chatbridge.cli.migrate.migration import Migration
from chatbridge.cli.migrate.prompts import is_first_stage, minigpt4_prompts
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
    _shares(m, {name: own for name, own in sources.items() if own})


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
    _processors(m, name, source, cleans=bool(setting))
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
    _processors(m, name, key, cleans=form.builder == "web_pairs")
    _asked(m, name, names, form)
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


def _processors(m: Migration, name: str, source: str, cleans: bool) -> None:
    """Rows of vis_processor, text_processor, data_type and the like."""
    at = f"datasets.{name}"
    encoder = f"model.encoders.{m.family.vision}"
    for part in ("train", "eval"):
        image = f"{at}.vis_processor.{part}"
        if m.has(f"{image}.name"):
            if m.family.is_lavis and part == "train":
                note = (
                    "images are resized to a square; LAVIS also crops and flips them at random, which has no key here"
                )
                m.no_equal(f"{image}.name", note)
            else:
                m.taken(f"{image}.name", f"{encoder}.train_resize: bicubic")
        if m.has(f"{image}.image_size"):
            size = m.value(f"{image}.image_size")
            if part == "train" and m.original.get("model", "image_size") in (None, size):
                m.taken(f"{image}.image_size", m.set(f"{encoder}.image_size", size))
            else:
                m.changed(f"{image}.image_size", f"{encoder}.image_size", "one size for training and evaluation")
        m.not_needed(image, "the original does not use it")
        text = f"{at}.text_processor.{part}"
        if m.has(f"{text}.name"):
            if cleans and part == "train":
                m.taken(f"{text}.name", f"data.sources.{source}.cleaner: minigpt4")
            elif m.family.is_minigpt4 or part == "eval":
                m.not_needed(f"{text}.name", "the original does not apply it to this data set, or not in training")
        if m.value(f"{text}.max_words") == 50:
            m.not_needed(f"{text}.max_words", "captions of more than 50 words are cut by the template's max_tokens")
    m.not_needed(f"{at}.vis_processor", "the original does not use it")
    for key in ("data_type", "type", "config_path"):
        m.not_needed(f"{at}.{key}", "the builder of the source decides")


def _asked(m: Migration, name: str, sources: list[str], form: SourceForm) -> None:
    """The request before a caption, and how texts are cleaned."""
    at = f"datasets.{name}.text_processor.train"
    prompt = m.value(f"{at}.prompt")
    for source in sources:
        if form.builder == "captions" and prompt:
            m.target.set(f"data.sources.{source}.tag", "ti-cap")
            m.target.set(f"data.sources.{source}.clean", True)
            m.target.set(f"data.sources.{source}.prompt", str(prompt).strip())
    if m.has(f"{at}.prompt"):
        note = "text between image and caption that is not supervised" if prompt else ""
        m.taken(f"{at}.prompt", f"data.sources.{sources[0]}.prompt", note)
    if m.has(f"{at}.name"):
        if form.builder == "captions":
            here, note = (
                f"data.sources.{sources[0]}.clean: true",
                "lower case; other characters are stripped than in blip_caption",
            )
        else:
            here, note = "", "questions and answers are used as they are, not in lower case"
        m.changed(f"{at}.name", here, note)


def _shares(m: Migration, sources: dict[str, list[str]]) -> None:
    """Weights, batches and how conversations are mixed."""
    ratios = {
        name: m.value(f"run.train_dataset_ratios.{name}") or m.value(f"datasets.{name}.sample_ratio")
        for name in sources
    }
    is_mix = len(sources) > 1
    for name, own in sources.items():
        for key in (f"datasets.{name}.sample_ratio", f"run.train_dataset_ratios.{name}"):
            if m.has(key) and not is_mix:
                m.not_needed(key, "there is one source")
            elif m.has(key):
                share = m.value(key)
                share = share / len(own) if len(own) > 1 and isinstance(share, (int, float)) else share
                m.taken(key, ", ".join(m.set(f"data.sources.{one}.weight", share) for one in own))
    m.no_equal("run.train_dataset_ratios", "names a data set that the file does not have")
    if is_mix and any(value is not None for value in ratios.values()):
        m.implied.append((m.set("data.mix", "step"), "every step takes all its conversations from one source"))
    elif is_mix:
        for own in sources.values():
            for one in own:
                m.target.set(f"data.sources.{one}.weight", "size")
        m.implied.append(("data.sources.<name>.weight: size", "without ratios LAVIS joins its data sets"))
    _batches(m, sources, is_mix)
    if m.family.is_minigpt4 and is_first_stage(m):
        return
    if m.family.is_lavis:
        m.implied.append((m.set("data.template", "caption"), "the text follows the image, without roles"))


def _batches(m: Migration, sources: dict[str, list[str]], is_mix: bool) -> None:
    """batch_size of each data set, per GPU: one micro-batch if they are equal, else the batch of each source."""
    sizes = {name: size for name in sources if _is_whole(size := m.value(f"datasets.{name}.batch_size"))}
    for name in sources.keys() - sizes.keys():
        m.no_equal(f"datasets.{name}.batch_size", "expected a whole number of at least 1; set run.micro_batch")
    if not sizes:
        return
    if len(set(sizes.values())) == 1 or not is_mix:
        here = m.set("run.micro_batch", next(iter(sizes.values())))
        for name in sizes:
            m.taken(f"datasets.{name}.batch_size", here)
        return
    m.target.set("data.mix", "step")
    m.target.set("run.micro_batch", max(sizes.values()))
    for name, size in sizes.items():
        here = ", ".join(m.set(f"data.sources.{one}.batch", size * m.ranks) for one in sources[name])
        note = f"over all ranks of a step: {size} x {m.ranks} (--ranks); it divides by ranks x run.accumulate"
        m.changed(f"datasets.{name}.batch_size", here, note)


def _is_whole(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size > 0
