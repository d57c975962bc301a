"""An old file that evaluates or only chats: tasks, and how answers are generated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatbridge.cli.migrate.families import RUN_ANSWER_KEYS
from chatbridge.cli.migrate.lavis_data import FORM_HINT
from chatbridge.cli.migrate.migration import Migration
from chatbridge.common.errors import nearest
from chatbridge.config.merge import load
from chatbridge.config.original_keys import ORIGINAL_KEYS
from chatbridge.config.shipped import SHIPPED

TASK_FILES = {  # data set of LAVIS, or of evaluation_datasets -> the shipped file of its task
    "coco_caption": "coco_caption", "nocaps": "nocaps", "flickr30k_caption": "flickr30k", "coco_vqa": "vqav2",
    "ok_vqa": "okvqa", "okvqa": "okvqa", "aok_vqa": "aokvqa", "gqa": "gqa", "vizwiz": "vizwiz", "vizwiz_vqa": "vizwiz",
    "textvqa": "textvqa", "text_vqa": "textvqa", "scienceqa": "scienceqa", "science_qa": "scienceqa",
    "msrvtt_caption": "msrvtt_caption", "msrvtt_caption_instruct": "msrvtt_caption", "msrvtt_qa": "msrvtt_qa",
    "msvd_caption": "msvd_caption", "msvd_qa": "msvd_qa", "vatex_caption": "vatex", "music_avqa": "music_avqa",
    "avsd_dialogue": "avsd", "clotho_caption": "clotho", "av_caption": "valor32k", "mosei_qa": "mosei", "pope": "pope",
}  # fmt: skip
ANSWER_KEYS = {
    "max_len": "max_new_tokens",
    "min_len": "min_new_tokens",
    "num_beams": "num_beams",
    "length_penalty": "length_penalty",
    "repetition_penalty": "repetition_penalty",
    "batch_size_eval": "batch_size",
    "max_new_tokens": "max_new_tokens",
}
CHAT = {"sample": True, "top_p": 0.9, "max_new_tokens": 300}  # of both demos
PENALTY = 1.05  # of MiniGPT-4's


def question_rows(m: Migration) -> None:
    """Rows of the data sets of an evaluation, and of the settings of its answers."""
    if m.original.get("evaluation_datasets"):
        _evaluation_datasets(m)
    evaluates = m.original.get("run", "evaluate") is True or m.family.is_lavis
    names = list(m.original.mapping("datasets"))
    tasks = []
    for name in names:
        if evaluates:
            tasks += _task(m, f"datasets.{name}", name)
            _rest_of_data_set(m, f"datasets.{name}", has_task=name in TASK_FILES)
        else:
            _chat_data_set(m, f"datasets.{name}")
    _answers(m, tasks)
    if not tasks and not m.family.is_lavis:
        generation = CHAT | ({"repetition_penalty": PENALTY} if m.family.is_minigpt4 else {})
        m.imply("evaluation.generation", generation, "how the demo of the original answers")
    if m.family.is_chatbridge:
        why = "the code of the original reads 64 mel bins; remove it for a checkpoint of yours with 128"
        m.imply("model.encoders.audio.mel_bins", 64, why)


def _task(m: Migration, key: str, name: str) -> list[str]:
    """Add the shipped tasks of a data set. Returns their names"""
    file = TASK_FILES.get(name)
    if file is None:
        guess = nearest(name, TASK_FILES)
        m.no_equal(key, f"no shipped task has it; {FORM_HINT}" + (f". Nearest: {guess}" if guess else ""))
        return []
    base = f"tasks/{file}.yaml"
    if base not in m.target.bases:
        m.target.bases.append(base)
    root = next(one for one in SHIPPED if (one / base).is_file())
    m.implied.append((f"base: {base}", f"the task of {name}, with the files and the metrics of its card"))
    return list(load(root / base)[0]["evaluation"]["tasks"])


def _rest_of_data_set(m: Migration, key: str, has_task: bool) -> None:
    """Paths and processors of a data set that became a task."""
    if not has_task:
        return
    for leaf in list(m.below(f"{key}.build_info")):
        name = leaf.rpartition(".")[2]
        note = "the task names its own files, in the layout of the publishers: see its card in dataset_prep/cards"
        if name in ("url", "md5"):
            m.not_needed(leaf, "nothing is downloaded by a run; the cards of dataset_prep have the addresses")
        elif m.has(leaf):
            m.changed(leaf, "evaluation.tasks.<name>.dataset", note)
    m.not_needed(key, "a task decides how its questions are read; images are resized as the encoder was trained")


def _chat_data_set(m: Migration, key: str) -> None:
    """A chat reads nothing of its data set but the size of images."""
    for leaf in m.below(key):
        if leaf.endswith(".image_size") and m.original.get("model", "image_size") in (None, m.value(leaf)):
            m.taken(leaf, f"model.encoders.{m.family.vision}.image_size: {m.value(leaf)}")
        else:
            m.not_needed(leaf, "a chat has no data set")


def _evaluation_datasets(m: Migration) -> None:
    for name, own in m.original.mapping("evaluation_datasets").items():
        key = f"evaluation_datasets.{name}"
        tasks = _task(m, key, name)
        for task in tasks:
            for word in ("max_new_tokens", "batch_size"):
                if isinstance(own, dict) and own.get(word) is not None:
                    m.target.set(f"evaluation.tasks.{task}.{word}", own[word])
        for word in ("max_new_tokens", "batch_size"):
            if tasks and m.has(f"{key}.{word}"):
                m.taken(f"{key}.{word}", f"evaluation.tasks.{tasks[0]}.{word}: {m.value(f'{key}.{word}')}")
        for word in ("eval_file_path", "img_path"):
            if tasks and m.has(f"{key}.{word}"):
                m.changed(
                    f"{key}.{word}", "evaluation.tasks.<name>.dataset", "the task names its own files: see its card"
                )
        m.not_needed(key, "the task decides")


def _answers(m: Migration, tasks: list[str]) -> None:
    """Lengths, beams and prompts of the run section, for every task."""
    for word, setting in ANSWER_KEYS.items():
        key = f"run.{word}"
        if not m.has(key):
            continue
        if not tasks:
            m.not_needed(key, "there are no tasks; a chat has evaluation.generation")
            continue
        value = m.value(key)
        if word == "length_penalty" and m.original.get("run", "num_beams") in (None, 1):
            m.not_needed(key, "it has an effect with several beams only")
            continue
        here = [m.set(f"evaluation.tasks.{task}.{setting}", value) for task in _generating(tasks)]
        m.taken(key, ", ".join(here))
    _method(m)
    for key in ("run.prompt", "model.prompt"):
        if m.has(key):
            _prompt(m, key, tasks)
    for word in RUN_ANSWER_KEYS:
        m.not_needed(f"run.{word}", "there are no tasks")


def _generating(tasks: list[str]) -> Iterator[str]:
    return (task for task in tasks if not task.endswith("_choice"))


def _method(m: Migration) -> None:
    key = "run.inference_method"
    if m.value(key) == "generate":
        m.taken(key, "evaluation.tasks.<name>", "answers are generated")
    elif m.has(key):
        m.no_equal(key, ORIGINAL_KEYS["run.num_ans_candidates"].note)


def _prompt(m: Migration, key: str, tasks: list[str]) -> None:
    text = str(m.value(key) or "")
    if not text:
        return m.not_needed(key, "empty")
    if not tasks:
        return m.no_equal(key, "there is no task to ask with it; give one: evaluation.tasks.<name>.dataset.prompt")
    asked = text.replace("{}", "<QUESTION>")
    bases, _ = m.target.below()
    fits = [task for task in tasks if _takes(bases, task, asked)]
    if not fits or asked.count("<QUESTION>") > 1:
        note = "the prompts of these tasks have other places; write it as evaluation.tasks.<name>.dataset.prompt"
        return m.no_equal(key, note)
    here = [m.set(f"evaluation.tasks.{task}.dataset.prompt", asked) for task in fits]
    return m.changed(key, ", ".join(here), "<QUESTION> is the place of the question, {} in LAVIS")


def _takes(bases: Any, task: str, asked: str) -> bool:
    """Whether the prompt of a task has a question where this one does."""
    there = bases["evaluation"]["tasks"][task].get("dataset", {}).get("prompt")
    return isinstance(there, str) and ("<QUESTION>" in there) == ("<QUESTION>" in asked) and "<OPTIONS>" not in there
