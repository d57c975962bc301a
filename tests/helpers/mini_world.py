"""A miniature world on disk: a random Llama with its tokenizer, a few pictures, clips and sounds, and run files.

Everything goes through the doors that users take: a Hugging Face folder, MULTIS JSON, a tar of pairs, YAML.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.helpers.tiny_media import jpeg, mp4, wav, write_json, write_tar
from tests.helpers.tiny_models import AUDIO, PERCEIVER, ROUTES, VISION

WORDS = """what color is it ? red green blue a the circle . high low tone moves left right
Given following image video audio its background : describe"""
COLORS = {"red": 250, "green": 120, "blue": 10}
COUNT = 6  # samples of each medium


class MiniWorld:
    """Paths of the miniature world, and YAML files that use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_language_model(folder / "lm")
        for number, red in enumerate(list(COLORS.values()) * (COUNT // 3)):
            _write(folder / "images" / f"i{number}.jpg", jpeg(red, side=32))
            _write(folder / "videos" / f"v{number}.mp4", mp4(num_frames=3 + number % 2))
            _write(folder / "audios" / f"a{number}.wav", wav(300.0 * (1 + number), seconds=0.3))
            _write(folder / "audios" / f"v{number}.wav", wav(200.0 * (1 + number), seconds=0.3))
        for letter, tag in (("i", "ti"), ("v", "tv"), ("a", "ta")):
            captions = [self._caption(f"{letter}{number}", number) for number in range(COUNT)]
            write_json(folder / f"{tag}_captions.json", captions)
            write_json(folder / f"{tag}_questions.json", [self._question(one["video_id"], one) for one in captions])
        write_json(
            folder / "tva_questions.json", [self._question(f"v{n}", self._caption(f"v{n}", n)) for n in range(COUNT)]
        )
        pairs = [(f"{n}.jpg", jpeg(n * 40)) for n in range(COUNT)] + [(f"{n}.txt", "a red one") for n in range(COUNT)]
        write_tar(folder / "pairs.tar", pairs)

    def _caption(self, name: str, number: int) -> dict[str, Any]:
        color = list(COLORS)[number % 3]
        return {"video_id": name, "caption": f"a {color} circle .", "must_name": [color, "circle"]}

    def _question(self, name: str, caption: dict[str, Any]) -> dict[str, Any]:
        return {"video_id": name, "question": "what color is it ?", "answer": caption["must_name"][0], "kind": "color"}

    def source(self, name: str, tag: str, **settings: Any) -> dict[str, Any]:
        """The node of a MULTIS source: name is captions or questions."""
        media = {"ti": ("image",), "tv": ("video",), "ta": ("audio",), "tva": ("video", "audio")}[tag.split("-")[0]]
        folders = {f"{kind}_folder": str(self.folder / f"{kind}s") for kind in media}
        return {"name": name, "annotations": str(self.folder / f"{tag.split('-')[0]}_{name}.json"), "tag": tag,
                **folders, **settings}  # fmt: skip

    def model(self, dropout: float = 0.0) -> dict[str, Any]:
        """The `model:` node: every part tiny, the language model from its folder."""
        return {
            "encoders": {"vision": VISION, "audio": AUDIO},
            "bridges": {"perceiver": {**PERCEIVER, "dropout": dropout}},
            "language": {"name": "causal_lm", "weights": str(self.folder / "lm"), "template": "vicuna_v0"},
            "routes": {modality: dict(route) for modality, route in ROUTES.items()},
            "trainable": ["bridges.*"],
        }

    def experiment(self, output: Path, **run: Any) -> dict[str, Any]:
        """A training run over every modality; keyword arguments replace settings of `run`."""
        settings = {"output_dir": str(output), "max_steps": 4, "micro_batch": 4, "log_every": 1, "save_every": 2,
                    "optimizer": {"lr": 0.01}, "schedule": {"warmup_steps": 1}, **run}  # fmt: skip
        sources = {
            "pictures": {"name": "web_pairs", "shards": str(self.folder / "pairs.tar"), "modality": "image"},
            "image_qa": self.source("questions", "ti-qa"),
            "video_cap": self.source("captions", "tv-cap"),
            "audio_qa": self.source("questions", "ta-qa", weight=2),
        }
        return {
            "model": self.model(),
            "data": {"sources": sources, "max_tokens": 200, "num_workers": 0},
            "run": settings,
        }

    def tasks(self) -> dict[str, Any]:
        """The `evaluation.tasks` node."""
        return {
            "image_qa": {"name": "vqa", "dataset": self.source("questions", "ti-qa"), "max_new_tokens": 4,
                         "batch_size": 4, "group_by": ["kind"]},
            "joint_qa": {"name": "vqa", "dataset": self.source("questions", "tva-qa"), "max_new_tokens": 4},
            "joint_without_sound": {"name": "vqa", "dataset": self.source("questions", "tva-qa"), "max_new_tokens": 4,
                                    "drop_media": ["audio"]},
            "audio_caption": {"name": "captioning", "dataset": self.source("captions", "ta-cap"), "max_new_tokens": 4},
        }  # fmt: skip


def write_yaml(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def train_command(config: Path, *options: str, num_processes: int = 1) -> list[str]:
    """The command line of a training, with torchrun's launcher in front when there are several processes."""
    script = Path(__file__).parents[2] / "train.py"
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    ahead = launcher if num_processes > 1 else []
    return [sys.executable, *ahead, str(script), "--cfg-path", str(config), *_options(options)]


def _options(options: Sequence[str]) -> list[str]:
    return ["--options", *options] if options else []


def write_language_model(folder: Path) -> None:
    """A random Llama that knows the words above and every byte, saved as transformers does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=sorted(alphabet))
    inner.train_from_iterator([WORDS] * 2, trainer)
    names = dict(zip(("unk_token", "bos_token", "eos_token"), special))
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = LlamaConfig(
        vocab_size=inner.get_vocab_size(), hidden_size=20, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(sizes).save_pretrained(folder)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
