"""The JSON of ChatBridge that run.valor_data_opts_path names: sources with weights (`steps`) and batches."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from chatbridge.cli.migrate.migration import Migration
from chatbridge.cli.migrate.original import read_json
from chatbridge.cli.migrate.prompts import is_first_stage
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.merge import display_path, load
from chatbridge.config.origins import MISSING
from chatbridge.config.shipped import SHIPPED

KEY = "run.valor_data_opts_path"
RELEASED = {"audio%cc16m%webvid2m%laion_v4a2.json": "chatbridge_alignment", "ivaav_inschat.json": "multis"}
TASKS = {"": "captions", "cap": "captions", "ocr": "captions", "shortqa": "questions", "normalqa": "questions",
         "det": "dialogues", "rea": "dialogues", "conv": "dialogues"}  # fmt: skip
FOLDERS = {
    "ti": ("image_folder",),
    "tv": ("video_folder",),
    "ta": ("audio_folder",),
    "tva": ("video_folder", "audio_folder"),
}
FRAMES = 1024  # of a clip, the default of the encoder
UNUSED = ("video_resolution", "video_encoder_type", "multimodal_encoder_type", "audio_encoder_type", "audio_type")


def mix_rows(m: Migration) -> None:
    """Rows of the mix file and its entries. raises ConfigError for a file that is not of this form"""
    text = str(m.value(KEY) or "")
    mixture = RELEASED.get(Path(text).name)
    found = m.found(text)
    if found is None:
        _absent(m, text, mixture or ("chatbridge_alignment" if is_first_stage(m) else "multis"))
        return
    content = read_json(Path(found))
    entries = _entries(content, found)
    name = Path(found).name
    m.taken(KEY, "data.sources", f"read: {display_path(found)}")
    m.add_rows(name, content, display_path(found))
    sources = [_entry(m, f"{name}.data_cfg.train[{at}]", one) for at, one in enumerate(entries)]
    _bases(m, [one for one in sources if one is not None])
    m.target.set("data.mix", "step")
    _whole_file(m, name, content)


def _absent(m: Migration, text: str, mixture: str) -> None:
    m.target.bases.append(f"mixtures/{mixture}.yaml")
    is_released = Path(text).name in RELEASED
    note = (
        "the shipped mixture of that file" if is_released else "the mixture of the release; write your sources over it"
    )
    m.changed(KEY, f"base: mixtures/{mixture}.yaml", f"{text or 'no file'} is not here: {note}")
    if not is_released:
        m.no_equal(KEY) if m.has(KEY) else None


def _entries(content: Any, found: str) -> list[dict[str, Any]]:
    train = (
        content.get("data_cfg", {}).get("train")
        if isinstance(content, dict) and isinstance(content.get("data_cfg"), dict)
        else None
    )
    if not isinstance(train, list) or not train:
        message = "has no list data_cfg.train, which ChatBridge's data options have"
        raise ConfigError([Problem(KEY, message, display_path(found))])
    for at, one in enumerate(train):
        sets = one.get("datasets") if isinstance(one, dict) else None
        if not isinstance(sets, list) or not sets or not all(isinstance(own, dict) for own in sets):
            message = f"data_cfg.train[{at}] has no list datasets with a mapping in it"
            raise ConfigError([Problem(KEY, message, display_path(found))])
    return train


def _entry(m: Migration, at: str, entry: dict[str, Any]) -> str | None:
    """One entry: weight, batch and the source of its data set. Returns the name of the source; None without an equal"""
    own = entry["datasets"][0]
    task = str(entry.get("task", ""))
    if len(entry["datasets"]) > 1 or "%" in task or _parts(task, own) is None:
        why = "an entry of several data sets or tasks: write one source for each" if _parts(task, own) else (
            f"the task {task!r} is not one of ti, tv, ta, tva with {', '.join(filter(None, TASKS))}"
        )  # fmt: skip
        m.no_equal(at, why)
        return None
    source = _source_name(str(own.get("name", "source")))
    path = f"data.sources.{source}"
    card = _card(source)
    if not card:
        _write_source(m, path, task, own)
    m.move(f"{at}.steps", f"{path}.weight")
    _batch(m, at, f"{path}.batch")
    for key, setting in (("video_sample_num", "frames"), ("audio_sample_num", "clips")):
        if m.has(f"{at}.{key}"):
            there = card.get(setting, 1 if setting == "clips" else 4)
            given = m.value(f"{at}.{key}")
            here = f"{path}.{setting}: {given}" if given == there else m.set(f"{path}.{setting}", given)
            m.taken(f"{at}.{key}", here)
    _paths(m, at, path, task, bool(card))
    if m.has(f"{at}.task"):
        m.taken(f"{at}.task", f"{path}.tag: {task}" if not card or "tag" in card else f"{path}.modality")
    m.not_needed(f"{at}.datasets[0].name", f"the source is {source}")
    m.not_needed(f"{at}.datasets[0].datatype", "the tag or the modality of the source says it")
    m.not_needed(f"{at}.data_format", "files and folders of frames are recognised")
    m.not_needed(f"{at}.n_workers", "processes read for all sources: data.num_workers")
    return source


def _batch(m: Migration, at: str, path: str) -> None:
    """The batch of an entry over all ranks, of an iteration there and of a step of the optimizer here."""
    given = m.value(f"{at}.batch_size")
    if m.accumulate > 1 and isinstance(given, int):
        note = f"of a step of the optimizer, of {m.accumulate} iterations"
        m.move(f"{at}.batch_size", path, note, given * m.accumulate)
    else:
        m.move(f"{at}.batch_size", path)


def _parts(task: str, own: dict[str, Any]) -> tuple[str, str] | None:
    media, _, kind = task.partition("-")
    if media == "ti" and own.get("datatype") == "video":
        media = "tv"
    return (media, kind) if media in FOLDERS and kind in TASKS else None


def _card(source: str) -> dict[str, Any]:
    """The settings of a source that a shipped file describes; {} without one."""
    for root in SHIPPED:
        if (file := root / "datasets" / f"{source}.yaml").is_file():
            return load(file)[0].get("data", {}).get("sources", {}).get(source, {})
    return {}


def _source_name(name: str) -> str:
    """A name without other characters; the one of the shipped file that differs from it in case only."""
    plain = re.sub(r"\W", "_", name)
    return plain.lower() if not _card(plain) and _card(plain.lower()) else plain


def _write_source(m: Migration, path: str, task: str, own: dict[str, Any]) -> None:
    media, kind = _parts(task, own) or ("ti", "")
    m.target.set(f"{path}.name", TASKS[kind])
    m.target.set(f"{path}.tag", f"{media}-{kind}" if kind else media)
    if m.prompts is not None and kind in ("cap", "ocr", "shortqa", "normalqa"):
        m.target.set(f"{path}.prompts", m.prompts)


def _paths(m: Migration, at: str, path: str, task: str, has_card: bool) -> None:
    """txt, video, audio: files of the source. A shipped source keeps its own paths where these do not exist."""
    own = {key: m.value(f"{at}.datasets[0].{key}") for key in ("txt", "video", "audio", "datatype")}
    media = (_parts(task, own) or ("ti", ""))[0]
    folders = {"video": FOLDERS[media][0] if media != "ta" else "video_folder", "audio": "audio_folder"}
    for key, setting in (("txt", "annotations"), *folders.items()):
        here = f"{at}.datasets[0].{key}"
        if not m.has(here):
            continue
        found = m.found(str(own[key]))
        if has_card and (found is None or _is_tars(path)):
            note = "the path of the shipped file is used; its card (dataset_prep/cards) shows how the data get there"
            m.changed(here, f"{path} of its shipped file", note)
        elif found is None and not m.keep_paths:
            m.changed(here, m.set(f"{path}.{setting}", MISSING, f"was {own[key]}"), "is not here: give your path")
        else:
            m.taken(here, m.set(f"{path}.{setting}", found or str(own[key])))


def _is_tars(path: str) -> bool:
    return _card(path.rpartition(".")[2]).get("name") == "web_pairs"


def _bases(m: Migration, sources: list[str]) -> None:
    """One shipped mixture if its sources are these, otherwise the shipped file of each source."""
    for mixture in RELEASED.values():
        root = next((one for one in SHIPPED if (one / "mixtures" / f"{mixture}.yaml").is_file()), None)
        if root is not None and set(load(root / "mixtures" / f"{mixture}.yaml")[0]["data"]["sources"]) == set(sources):
            m.target.bases.append(f"mixtures/{mixture}.yaml")
            return
    m.target.bases += [f"datasets/{source}.yaml" for source in sources if _card(source)]


def _whole_file(m: Migration, name: str, content: dict[str, Any]) -> None:
    """Keys beside the entries."""
    for key in UNUSED:
        m.not_needed(f"{name}.{key}", "the encoders of the model decide")
    if m.has(f"{name}.gradient_accumulation_steps"):
        if m.value(f"{name}.gradient_accumulation_steps") == 1:
            m.taken(f"{name}.gradient_accumulation_steps", "run.accumulate: 1")
        else:
            note = "the original only repeats a data set so often, without accumulating; set run.accumulate for memory"
            m.no_equal(f"{name}.gradient_accumulation_steps", note)
    if m.has(f"{name}.dataset_mix_type"):
        if m.value(f"{name}.dataset_mix_type") == "random":
            m.taken(f"{name}.dataset_mix_type", "data.mix: step")
        else:
            m.no_equal(f"{name}.dataset_mix_type", "sources are drawn by their weights")
    if m.value(f"{name}.audio_melbins") is not None:
        bins = m.value(f"{name}.audio_melbins")
        note = "128, as BEATs was trained; set model.encoders.audio.mel_bins: 64 to continue weights of the original"
        if bins == 128:
            m.taken(f"{name}.audio_melbins", "model.encoders.audio.mel_bins: 128")
        else:
            m.changed(f"{name}.audio_melbins", "model.encoders.audio.mel_bins: 128", note)
    if m.value(f"{name}.audio_target_length") == FRAMES:
        m.taken(f"{name}.audio_target_length", f"model.encoders.audio.target_frames: {FRAMES}")
    m.move(f"{name}.audio_target_length", "model.encoders.audio.target_frames")
    for split in content["data_cfg"]:
        if split != "train":
            m.no_equal(
                f"{name}.data_cfg.{split}", "an evaluation is a task: evaluation.tasks (docs/evaluation.md)"
            ) if content["data_cfg"][split] else m.not_needed(f"{name}.data_cfg.{split}", "empty")
