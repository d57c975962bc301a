"""Run folders as training and evaluation write them: two images, a video with audio, an audio file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chatbridge.models.checkpoint_manifest import FORMAT
from chatbridge.report.item_media import open_dataset
from chatbridge.tasks import TASKS
from chatbridge.tasks.scores_file import write_scores
from tests.helpers.media_files import image_bytes, tone, write_audio, write_video
from tests.helpers.mini_world import write_yaml

Answer = Callable[[dict[str, Any]], str]  # annotation -> answer of the model
IMAGES = [
    {"image_id": "a.jpg", "question": "Which color?", "answer": "red", "kind": "color"},
    {"image_id": "a.jpg", "question": "Which shape?", "answer": "circle", "kind": "shape"},
    {"image_id": "b.jpg", "question": "Which color?", "answer": "blue", "kind": "color"},
    {"image_id": "b.jpg", "question": "Which shape?", "answer": "circle", "kind": "shape"},
]
PAIRS = [
    {"video_id": "p.mp4", "question": "Which way?", "answer": "up", "kind": "motion", "about": "video"},
    {"video_id": "p.mp4", "question": "Which tone?", "answer": "high", "kind": "pitch", "about": "audio"},
]
JOINT = [{"video_id": "p.mp4", "question": "Both?", "answer": "up and high", "kind": "motion and pitch"}]
CAPTIONS = [{"video_id": "s.wav", "caption": "a high tone", "must_name": ["high", "tone"]}]
FOLDERS = {"ti": ["image"], "ta": ["audio"], "tva": ["video", "audio"]}


def reference(record: dict[str, Any]) -> str:
    return record.get("answer") or record["caption"]


def write_runs(root: Path, answers: dict[str, Answer] | None = None) -> Path:
    """The folders pretrain, instruct and eval below `root`; returns it.

    answers   task -> answers of the model where they are not the references
    """
    media = root.parent / "media"
    media.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        (media / name).write_bytes(image_bytes("JPEG"))
    write_video(media / "p.mp4", num_frames=4, tone_hz=440.0)
    write_audio(media / "s.wav", tone(0.3))
    pairs = _node(media, "vqa", "tva-qa", PAIRS) | {"group_by": ["kind", "about"]}
    nodes = {
        "image": _node(media, "vqa", "ti-qa", IMAGES),
        "caption_audio": _node(media, "captioning", "ta", CAPTIONS),
        "audio_video": pairs | {"report": {"target": 0.75}},
        "audio_video_joint": _node(media, "vqa", "tva-qa", JOINT, "joint.json"),
        "audio_video_without_audio": {**pairs, "drop_media": ["audio"]},
    }
    nodes["image"]["report"] = nodes["caption_audio"]["report"] = {"target": 0.95}
    nodes["audio_video_joint"]["report"] = {"title": "Questions that need both", "answer_parts": ["video", "audio"]}
    write_evaluation(root / "eval", nodes, answers or {})
    for stage in ("pretrain", "instruct"):
        write_stage(root / stage)
    return root


def _node(media: Path, task: str, tag: str, records: list[dict], name: str | None = None) -> dict[str, Any]:
    path = media / (name or f"{tag}.json")
    path.write_text(json.dumps(records))
    folders = {f"{kind}_folder": str(media) for kind in FOLDERS[tag.partition("-")[0]]}
    builder = "questions" if task == "vqa" else "captions"
    return {"name": task, "group_by": ["kind"] if task == "vqa" else [],
            "dataset": {"name": builder, "annotations": str(path), "tag": tag, **folders}}  # fmt: skip


def write_evaluation(folder: Path, nodes: dict[str, dict[str, Any]], answers: dict[str, Answer]) -> None:
    """The files of `python -m chatbridge evaluate`, with the real scores of given answers."""
    write_yaml(folder / "resolved.yaml", {"evaluation": {"tasks": nodes}})
    metrics = {}
    for name, node in nodes.items():
        task = _task(node)
        records = json.loads(Path(node["dataset"]["annotations"]).read_text())
        ids = _ids(node, name) or [str(index) for index in range(len(records))]
        given = answers.get(name, reference)
        rows = [_row(index, ids[index], record, given) for index, record in enumerate(records)]
        metrics[name] = {**task.results(task.scored(rows)), "metric": task.main_metric}
        (folder / f"predictions_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        write_scores(folder / f"scores_{name}.json", task.scored(rows), {})
    (folder / "metrics.json").write_text(json.dumps(metrics))


def _task(node: dict[str, Any]) -> Any:
    """The task without its data set, for its scores."""
    kind: Any = TASKS.get(node["name"])
    return kind(kind.Config(dataset=None, group_by=tuple(node["group_by"])), "", opens_data=False)


def _ids(node: dict[str, Any], name: str) -> list[str]:
    """The ids that the data set gives its samples."""
    dataset = open_dataset(node["dataset"], name)
    return [] if dataset is None else [dataset.sample_id(index) for index in range(len(dataset))]


def _row(index: int, item_id: str, record: dict[str, Any], answer: Answer) -> dict[str, Any]:
    given, references = answer(record), [reference(record)]
    return {"index": index, "id": item_id, "question": record.get("question", ""), "prediction": given,
            "references": references, "details": record}  # fmt: skip


def rows_of(answers: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Rows of (kind, correct answer, given answer)."""
    return [
        {"references": [correct], "prediction": given, "scores": {}, "details": {"kind": kind} if kind else {}}
        for kind, correct, given in answers
    ]


def write_stage(folder: Path, steps: int = 3) -> Path:
    """A finished training run whose newest checkpoint holds two tensors."""
    import torch
    from safetensors.torch import save_file

    checkpoint = folder / "checkpoints" / f"step_{steps:06d}"
    checkpoint.mkdir(parents=True)
    records = [
        {"step": step, "loss": 4.0 / step, "per_source": {"pictures": 3.0 / step, "sounds": 5.0 / step}, "seconds": 2.0}
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_yaml(folder / "resolved.yaml", {"run": {"max_steps": steps}})
    tensors = {"bridges.perceiver.queries.visual": torch.zeros(8, 16), "bridges.perceiver.output.bias": torch.zeros(72)}
    save_file(tensors, checkpoint / "model.safetensors")
    components = {
        "bridges.perceiver": {"trained": {"tensors": 2, "parameters": 200}, "frozen": {"tensors": 0, "parameters": 0}},
        "language": {"trained": {"tensors": 0, "parameters": 0}, "frozen": {"tensors": 1, "parameters": 1800}},
    }
    manifest = {"format": FORMAT, "step": steps, "components": components, "model": {"trainable": ["bridges.*"]}}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    return checkpoint
