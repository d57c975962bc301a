"""The three networks of `benchmarks.step` with the same weights: ours, the reference's way, and transformers' parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.step_reference import ReferenceModel
from benchmarks.step_shapes import Shapes, reference_inputs
from chatbridge.common.dist import Dist
from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import trainable_parameters
from chatbridge.models.config import ModelConfig
from chatbridge.models.placement import place_model
from chatbridge.models.trainable import set_trainable
from chatbridge.runners.parallel.replicate import Replicated

Step = Callable[[Batch], float]  # one optimizer step; returns the mean loss
LR = 1e-5


def our_model(shapes: Shapes, dtype: torch.dtype) -> ChatModel:
    """Random weights; the bridge is trained."""
    torch.manual_seed(0)
    vision = {"name": "eva_vit", "width": shapes.vision_width, "depth": shapes.vision_depth, "mlp_ratio": 4.0,
              "heads": shapes.vision_heads, "image_size": shapes.image_size, "patch_size": shapes.patch}  # fmt: skip
    bridge = {"name": "qformer", "num_queries": shapes.num_queries, "num_layers": shapes.bridge_depth,
              "width": shapes.bridge_width, "heads": shapes.bridge_heads}  # fmt: skip
    sizes = {"model_type": "llama", "vocab_size": shapes.vocabulary, "hidden_size": shapes.width,
             "intermediate_size": shapes.mlp_width, "num_hidden_layers": shapes.depth,
             "num_attention_heads": shapes.heads, "tie_word_embeddings": False}  # fmt: skip
    route = {"encoder": "vision", "bridge": "perceiver"}
    mapping = {
        "encoders": {"vision": vision},
        "bridges": {"perceiver": bridge},
        "language": {"name": "causal_lm", "architecture": sizes},
        "routes": {"image": route, "video": {**route, "frames": {"count": shapes.frames}}},
        "trainable": ["bridges.*"],
    }
    model = ChatModel(parse(ModelConfig, mapping))
    set_trainable(model, model.config.trainable)
    place_model(model, "cpu", dtype)
    return model.train()


def our_step(model: ChatModel) -> Step:
    """As in runners/runner.py: sum of the losses by the number of points, flat gradients, clipping, AdamW."""
    tensors = trainable_parameters(model)
    gradients = Replicated(tensors, Dist())
    optimizer = torch.optim.AdamW(tensors.values(), lr=LR, weight_decay=0.05)

    def step(batch: Batch) -> float:
        gradients.zero()
        loss = model(batch)
        gradients.backward(loss.total / loss.count, is_last=True)
        gradients.reduce()
        gradients.clip(1.0)
        optimizer.step()
        return float(loss.total.detach()) / loss.count

    return step


def plain_step(model: nn.Module, dtype: torch.dtype) -> Step:
    """As in the reference's runner: zero_grad, autocast, backward, AdamW."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=LR, weight_decay=0.05)

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(*reference_inputs(batch))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def reference_model(ours: ChatModel, shapes: Shapes) -> ReferenceModel:
    """The reference's way with the weights of our model, in the same dtypes."""
    model = ReferenceModel(shapes)
    state = ours.state_dict()
    vision = {
        **{f"vision.{new}": state[f"encoders.vision.{old}"] for new, old in _VISION.items()},
        **_renamed(state, "encoders.vision.vit.blocks.", "vision.blocks.",
                   (".attn.qkv.", ".qkv."), (".attn.proj.", ".proj."), (".attn.", "."), (".mlp.", ".")),
    }  # fmt: skip
    model.load_state_dict(
        {**vision, **_bridge(state, "qformer.", "proj."), **_renamed(state, "language.lm.", "llama.")}, assign=True
    )
    return _like(ours, model)


class TransformersModel(nn.Module):
    """Blip2VisionModel, Blip2QFormerModel and LlamaForCausalLM as Blip2ForConditionalGeneration connects them."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        from transformers import (
            Blip2QFormerConfig,
            Blip2QFormerModel,
            Blip2VisionConfig,
            Blip2VisionModel,
            LlamaConfig,
            LlamaForCausalLM,
        )

        self.vision = Blip2VisionModel(
            Blip2VisionConfig(
                hidden_size=shapes.vision_width, intermediate_size=4 * shapes.vision_width,
                num_hidden_layers=shapes.vision_depth, num_attention_heads=shapes.vision_heads,
                image_size=shapes.image_size, patch_size=shapes.patch, layer_norm_eps=1e-6,
            )
        )  # fmt: skip
        self.vision.post_layernorm.eps = 1e-5
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=shapes.bridge_width, num_hidden_layers=shapes.bridge_depth,
                num_attention_heads=shapes.bridge_heads, intermediate_size=4 * shapes.bridge_width,
                encoder_hidden_size=shapes.vision_width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            )
        )  # fmt: skip
        self.query_tokens = nn.Parameter(torch.zeros(1, shapes.num_queries, shapes.bridge_width))
        self.proj = nn.Linear(shapes.bridge_width, shapes.width)
        self.llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shapes.vocabulary, hidden_size=shapes.width, intermediate_size=shapes.mlp_width,
                num_hidden_layers=shapes.depth, num_attention_heads=shapes.heads,
            )
        )  # fmt: skip

    def forward(self, media: Tensor, ids: Tensor, is_slot: Tensor, is_token: Tensor, labels: Tensor) -> Tensor:
        """As ReferenceModel; all frames go through the vision model together."""
        frames = media.flatten(0, 1) if media.ndim == 5 else media
        with torch.no_grad():
            features: Any = self.vision(frames).last_hidden_state
            features = features.unflatten(0, (len(media), -1)).flatten(1, 2)  # [B, T * N, W]
        queries = self.query_tokens.expand(len(features), -1, -1)
        seen = torch.ones(features.shape[:2], dtype=torch.long)
        tokens = self.proj(
            self.qformer(
                query_embeds=queries, encoder_hidden_states=features, encoder_attention_mask=seen
            ).last_hidden_state
        )
        embeds = self.llama.get_input_embeddings()(ids)
        embeds = embeds.masked_scatter(is_slot[..., None], tokens.to(embeds.dtype))
        found: Any = self.llama(inputs_embeds=embeds, attention_mask=is_token.long(), labels=labels)
        return found.loss


def transformers_model(ours: ChatModel, shapes: Shapes) -> TransformersModel:
    """transformers' parts with the weights of our model, in the same dtypes."""
    model = TransformersModel(shapes)
    state = ours.state_dict()
    names = ((".attn.qkv.", ".self_attn.qkv."), (".attn.proj.", ".self_attn.projection."), (".norm1.", ".layer_norm1."),
             (".norm2.", ".layer_norm2."))  # fmt: skip
    vision = _renamed(state, "encoders.vision.vit.blocks.", "vision.encoder.layers.", *names)
    for number in range(shapes.vision_depth):
        q, v = (vision.pop(f"vision.encoder.layers.{number}.attn.{name}_bias") for name in "qv")
        vision[f"vision.encoder.layers.{number}.self_attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    vision |= {f"vision.{new}": state[f"encoders.vision.{old}"] for new, old in _BLIP2_VISION.items()}
    model.load_state_dict(
        {**vision, **_bridge(state, "qformer.", "proj."), **_renamed(state, "language.lm.", "llama.")}, assign=True
    )
    return _like(ours, model)


_VISION = {
    "patches.weight": "vit.patch_embed.proj.weight", "patches.bias": "vit.patch_embed.proj.bias",
    "first": "vit.cls_token", "positions": "vit.pos_embed", "norm.weight": "norm.weight", "norm.bias": "norm.bias",
}  # fmt: skip
_BLIP2_VISION = {
    "embeddings.patch_embedding.weight": "vit.patch_embed.proj.weight",
    "embeddings.patch_embedding.bias": "vit.patch_embed.proj.bias", "embeddings.class_embedding": "vit.cls_token",
    "embeddings.position_embedding": "vit.pos_embed", "post_layernorm.weight": "norm.weight",
    "post_layernorm.bias": "norm.bias",
}  # fmt: skip


def _renamed(state: dict[str, Tensor], old: str, new: str, *changes: tuple[str, str]) -> dict[str, Tensor]:
    """The tensors whose names begin with `old`, with `new` in its place and further parts of names changed."""
    found = {}
    for name, value in state.items():
        if name.startswith(old):
            rest = name.removeprefix(old)
            for before, after in changes:
                rest = rest.replace(before, after)
            found[new + rest] = value.clone()
    return found


def _bridge(state: dict[str, Tensor], qformer: str, proj: str) -> dict[str, Tensor]:
    before = "bridges.perceiver."
    found = {**_renamed(state, f"{before}qformer.", qformer), **_renamed(state, f"{before}output.", proj)}
    return {"query_tokens": state[f"{before}queries.all"][None].clone(), **found}


def _like(ours: ChatModel, model: Any) -> Any:
    """Train the bridge alone."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("qformer.", "proj.", "query_tokens")))
    return model.train()
