"""Write the files of the tiny world in the formats of the real data sets.

    alignment/{images,videos,sounds}-00000.tar   webdataset pairs for stage 1 (jpg|mp4|wav + txt)
    instruct/{images,videos,sounds}/             media for stage 2, with MULTIS-style JSON beside them
    heldout/{images,videos,sounds}/              media of combinations that no training file shows, for the evaluation
    manifest.json                                counts and the seed

Every sample of stage 1 and stage 2 has one modality. Videos with an audio track exist only in `heldout`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import webdataset

from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import stream
from dataset_prep.tiny_world import corpus, render_audio, render_visual, world
from dataset_prep.tiny_world.world import Scene

FOLDERS = {"image": "images", "video": "videos", "audio": "sounds"}
ENDINGS = {"image": "jpg", "video": "mp4", "audio": "wav"}
RENDER: dict[str, Callable[[Scene, np.random.Generator], bytes]] = {
    "image": render_visual.jpeg,
    "video": render_visual.mp4,
    "audio": render_audio.wav,
}
SHARDS = 2
Record = dict[str, object]


@dataclass(frozen=True)
class Counts:
    """How many files of each modality."""

    alignment: dict[str, int]
    instruct: dict[str, int]
    heldout: dict[str, int]
    pairs: int  # held-out videos with an audio track

    @classmethod
    def scaled(cls, scale: float) -> Counts:
        def of(image: int, video: int, audio: int) -> dict[str, int]:
            return {"image": round(image * scale), "video": round(video * scale), "audio": round(audio * scale)}

        return cls(of(2400, 1800, 3000), of(1000, 600, 1500), of(200, 200, 210), round(240 * scale))


def write_world(root: Path, seed: int, scale: float = 1.0) -> dict[str, object]:
    """Write all files below `root`; returns the manifest, which is written last."""
    counts = Counts.scaled(scale)
    for modality in world.MODALITIES:
        write_pairs(root / "alignment", modality, counts.alignment[modality], seed)
        write_dialogues(root / "instruct", modality, counts.instruct[modality], seed)
        write_questions(root / "heldout", modality, counts.heldout[modality], seed)
    write_paired_media(root / "heldout", counts.pairs, seed)
    manifest = {"seed": seed, "scale": scale, **counts.__dict__}
    replace_text(root / "manifest.json", json.dumps(manifest, indent=1))
    return manifest


def scenes(modality: str, count: int, rng: np.random.Generator, *, held_out: bool) -> list[Scene]:
    """Every scene equally often, in random order."""
    known = world.all_scenes(modality, held_out=held_out)
    order = [int(i) for _ in range(-(-count // len(known))) for i in rng.permutation(len(known))]
    return [known[i] for i in order[:count]]


# ---------------------------------------------------------------- stage 1


def write_pairs(folder: Path, modality: str, count: int, seed: int) -> None:
    """Media with one caption each, in SHARDS tars."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = stream(seed, f"alignment {modality}")
    shown = scenes(modality, count, rng, held_out=False)
    for shard, part in enumerate(np.array_split(np.arange(count), SHARDS)):
        path = folder / f"{FOLDERS[modality]}-{shard:05d}.tar"
        with webdataset.TarWriter(str(path), encoder=False, mtime=0) as tar:
            for index in part:
                media = RENDER[modality](shown[index], rng)
                text = world.caption(shown[index], rng).encode()
                tar.write({"__key__": f"{index:06d}", ENDINGS[modality]: media, "txt": text})


# ---------------------------------------------------------------- stage 2


def write_dialogues(folder: Path, modality: str, count: int, seed: int) -> None:
    """Media with short questions, captions and dialogues of several turns."""
    rng = stream(seed, f"instruct {modality}")
    files = write_media(folder, modality, scenes(modality, count, rng, held_out=False), rng)
    questions, captions, dialogues = [], [], []
    for name, scene in files:
        pairs = [world.question(scene, attribute, rng) for attribute in world.ATTRIBUTES[modality]]
        asked, answers = [q for q, _ in pairs], [a for _, a in pairs]
        questions.append({_id_key(modality): name, "question": asked, "answer": answers})
        captions.append({_id_key(modality): name, "caption": [world.caption(scene, rng) for _ in range(2)]})
        turns = corpus.one_medium_turns(scene, int(rng.integers(2, 5)), rng)
        dialogues.append({_id_key(modality): name, "conversations": _as_multis(turns, modality)})
    for kind, records in (("qa", questions), ("cap", captions), ("conv", dialogues)):
        _write_json(folder / f"{modality}_{kind}.json", records)


def _as_multis(turns: list[tuple[str, str]], modality: str) -> list[dict[str, str]]:
    messages = []
    for index, (asked, answer) in enumerate(turns):
        marker = f"<{modality}>\n" if index == 0 else ""
        messages += [{"from": "human", "value": marker + asked}, {"from": "gpt", "value": answer}]
    return messages


# ---------------------------------------------------------------- evaluation


def write_questions(folder: Path, modality: str, count: int, seed: int) -> None:
    """Held-out media with a question about every attribute and the words that a caption must name."""
    rng = stream(seed, f"heldout {modality}")
    files = write_media(folder, modality, scenes(modality, count, rng, held_out=True), rng)
    key = _id_key(modality)
    questions = [
        {key: name, "question": asked, "answer": answer, "kind": attribute}
        for name, scene in files
        for attribute in world.ATTRIBUTES[modality]
        for asked, answer in [world.question(scene, attribute, rng)]
    ]
    captions = [
        {key: name, "caption": world.caption(scene, rng), "must_name": list(scene.values)} for name, scene in files
    ]
    _write_json(folder / f"{modality}_qa.json", questions)
    _write_json(folder / f"{modality}_cap.json", captions)


def write_paired_media(folder: Path, count: int, seed: int) -> None:
    """Videos with an audio track: questions about one of the two, and questions that need both."""
    rng = stream(seed, "heldout pairs")
    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    single, joint = [], []
    heard = scenes("audio", count, rng, held_out=True)
    tones = [scene for scene in world.all_scenes("audio", held_out=True) if scene["sound"] in world.FOLLOWED]
    for index, (video, audio) in enumerate(zip(scenes("video", count, rng, held_out=True), heard, strict=True)):
        if index % 3 == 0:  # more tones, because only they have the question whether the tone follows the motion
            audio = tones[int(rng.integers(len(tones)))]
        name = f"{index:06d}.mp4"
        (folder / "pairs" / name).write_bytes(render_visual.mp4(video, rng, render_audio.waveform(audio, rng)))
        single += [_single(name, video, rng), _single(name, audio, rng)]
        joint += [
            {"video_id": name, "question": asked, "answer": answer, "kind": kind}
            for kind in world.joint_kinds(video, audio)
            for asked, answer in [world.joint_question(kind, video, audio, rng)]
        ]
    _write_json(folder / "audio_video_qa.json", single)
    _write_json(folder / "audio_video_joint_qa.json", joint)


def _single(name: str, scene: Scene, rng: np.random.Generator) -> Record:
    attribute = world.pick(tuple(world.ATTRIBUTES[scene.modality]), rng)
    asked, answer = world.question(scene, attribute, rng)
    return {"video_id": name, "question": asked, "answer": answer, "kind": attribute, "about": scene.modality}


# ---------------------------------------------------------------- files


def write_media(folder: Path, modality: str, shown: list[Scene], rng: np.random.Generator) -> list[tuple[str, Scene]]:
    """One file per scene; returns (file name, scene)."""
    target = folder / FOLDERS[modality]
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for index, scene in enumerate(shown):
        name = f"{index:06d}.{ENDINGS[modality]}"
        (target / name).write_bytes(RENDER[modality](scene, rng))
        files.append((name, scene))
    return files


def _id_key(modality: str) -> str:
    return "image_id" if modality == "image" else "video_id"


def _write_json(path: Path, records: list[Record]) -> None:
    replace_text(path, json.dumps(records, indent=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/tiny"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the default number of files")
    arguments = parser.parse_args()
    started = time.monotonic()
    manifest = write_world(arguments.root, arguments.seed, arguments.scale)
    print(f"{arguments.root}: {json.dumps(manifest)} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
