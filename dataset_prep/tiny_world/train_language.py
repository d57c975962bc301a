"""Train the tiny language model on text about the tiny world and save it as a Hugging Face folder.

A Llama of about 0.9 M parameters with its own byte-pair tokenizer. Training has two phases. First the model restates
one description (a caption, or a list of values), so that it copies from its context after about a minute. Then it reads
dialogues in the `vicuna_v0` format about one description, or about two (of a video and its audio). The embeddings of
descriptions are blurred in training: a bridge will write approximate embeddings to these positions.

The text describes all combinations of attributes; only media of some combinations are held out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import stream
from dataset_prep.tiny_world import corpus, world
from dataset_prep.tiny_world.language_data import ANSWER, DESCRIPTION, SCENES, DocumentEncoder, train_tokenizer

LOSS_WEIGHTS = (0.05, 0.1, 1.0)  # by the kind of the token
TOKENS_PER_STEP = 1500
MAX_TURNS = 4


class Phase(NamedTuple):
    """The number of steps, and the probability of each kind of document in a step."""

    steps: int
    restated: float
    one_medium: float
    two_media: float

    def documents(self, rng: np.random.Generator) -> list[corpus.Document]:
        """The documents of one step: of one kind and about one length, so that a batch has little padding."""
        kind = corpus.KINDS[rng.choice(3, p=self[1:])]
        turns = int(rng.integers(1, MAX_TURNS + 1))
        length = {corpus.RESTATED: 22, corpus.ONE_MEDIUM: 24 + 17 * turns, corpus.TWO_MEDIA: 40 + 17 * turns}[kind]
        return corpus.documents(SCENES, kind, turns, TOKENS_PER_STEP // length, rng)


# ---------------------------------------------------------------- training


def new_model(vocab_size: int, width: int, depth: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": depth}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": True}
    start = {"initializer_range": 0.06}  # the default 0.02 suits widths of thousands and trains slowly here
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes, **heads, **special, **start))


def losses(model: Any, ids: Tensor, kinds: Tensor, blur: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each next token, and the kind of that token.

    ids, kinds   int64[B, L], of DocumentEncoder.batch
    blur         largest share of another embedding in the embeddings of descriptions, 0 to 1
    returns      float[B, L - 1] and int64[B, L - 1]
    """
    embeds = model.get_input_embeddings()(ids)
    if blur:
        embeds = torch.where((kinds == DESCRIPTION)[..., None], _blurred(embeds, model, blur), embeds)
    logits = model(inputs_embeds=embeds).logits[:, :-1]
    loss = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return loss, kinds[:, 1:]


def _blurred(embeds: Tensor, model: Any, blur: float) -> Tensor:
    """Each embedding mixed with that of a random token (share up to `blur`) and with a little noise."""
    table = model.get_input_embeddings().weight
    share = torch.rand(embeds.shape[:2])[..., None] * blur
    other = table[torch.randint(len(table), embeds.shape[:2])]
    noise = 0.1 * blur * embeds.detach().std() * torch.randn_like(embeds)
    return (1 - share) * embeds + share * other + noise


def train(model: Any, encoder: DocumentEncoder, phases: list[Phase], *, lr: float, blur: float, seed: int) -> None:
    """Train the phases in order with one cosine schedule; prints the loss every 50 steps."""
    rng, total, started = stream(seed, "language"), sum(phase.steps for phase in phases), time.monotonic()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    weights, step = torch.tensor([*LOSS_WEIGHTS, 0.0]), 0  # the last one is for PADDING
    model.train()
    for phase in phases:
        for _ in range(phase.steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / 50) * (0.525 + 0.475 * math.cos(math.pi * step / total))
            loss, kinds = losses(model, *encoder.batch(phase.documents(rng)), blur)
            weighted = (loss * weights[kinds]).sum() / weights[kinds].sum()
            optimizer.zero_grad()
            weighted.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 50 == 0 or step == total:
                print(f"language {step}/{total} loss {weighted:.3f} {time.monotonic() - started:.0f} s", flush=True)
    model.eval()


# ---------------------------------------------------------------- examination


@torch.no_grad()
def examine(model: Any, encoder: DocumentEncoder, seed: int, count: int = 100) -> dict[str, float]:
    """Share of correct answers per kind of question about text descriptions: an upper bound for a bridge."""
    rng = stream(seed, "language examination")
    kinds: dict[str, Callable[[], corpus.Document]] = {
        **{modality: lambda m=modality: corpus.one_question(SCENES, m, rng) for modality in world.MODALITIES},
        **{kind: lambda k=kind: corpus.one_joint_question(SCENES, k, rng) for kind in world.JOINT_QUESTIONS},
    }
    return {kind: _share_correct(model, encoder, [make() for _ in range(count)]) for kind, make in kinds.items()}


def _share_correct(model: Any, encoder: DocumentEncoder, documents: list[corpus.Document]) -> float:
    ids, kinds = encoder.batch(documents)
    predicted = model(ids).logits[:, :-1].argmax(-1)
    ends = ids[:, 1:] == encoder.encode("\n")[-1]  # whether another turn follows cannot be predicted
    correct = (predicted == ids[:, 1:]) | (kinds[:, 1:] != ANSWER) | (ends.cumsum(1) > 0)
    return float(correct.all(1).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/tiny"), help="folder of the tiny world")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs=2, default=(100, 750), help="steps of the two phases")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    folder = arguments.root / "language"
    encoder = DocumentEncoder(train_tokenizer(folder, arguments.seed))
    model = new_model(encoder.tokenizer.vocab_size, arguments.width, arguments.depth)
    first, second = arguments.steps
    phases = [Phase(first, 1.0, 0.0, 0.0), Phase(second, 0.2, 0.4, 0.4)]
    train(model, encoder, phases, lr=3e-3, blur=0.4, seed=arguments.seed)
    accuracy = examine(model, encoder, arguments.seed)
    model.save_pretrained(str(folder))
    replace_text(folder / "examination.json", json.dumps(accuracy, indent=1))
    print(f"{folder}: correct answers {json.dumps(accuracy)}")


if __name__ == "__main__":
    main()
