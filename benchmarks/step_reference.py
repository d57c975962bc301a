"""The reference's training step in our own words: what ChatBridge and MiniGPT-4 compute, in their order of operations.

Frames of a video go through the vision transformer one after the other; sequences are padded to the longest and carry a
mask of all positions; attention is two products with a softmax between them; logits and cross-entropy cover every
position, most of them without a target; AdamW without clipping.

Transcribed from a description of joez17/ChatBridge, Vision-CAIR/MiniGPT-4, salesforce/LAVIS (eva_vit, Qformer) and
transformers 4.28 (LlamaForCausalLM), on which they run. State-dict names of the Q-Former and of the language model are
those of transformers, so weights can be copied.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.step_shapes import Shapes


class VisionBlock(nn.Module):
    """A pre-norm block; biases of queries and values are apart from the product, and keys have none."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        width = shapes.vision_width
        self.heads = shapes.vision_heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """float[M, N, W] -> float[M, N, W]"""
        x = x + self._attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def _attention(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias.to(x.dtype))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [M, heads, N, W / heads]
        shares = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((shares @ v).transpose(1, 2).flatten(2))


class Vision(nn.Module):
    """EVA-ViT without its last norm, and `ln_vision` in fp32."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        width, patch = shapes.vision_width, shapes.patch
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, shapes.num_features, width))
        self.blocks = nn.ModuleList(VisionBlock(shapes) for _ in range(shapes.vision_depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """float[M, 3, H, H] -> float[M, N, W]"""
        x = self.patches(images).flatten(2).transpose(1, 2)  # [M, N - 1, W]
        x = torch.cat([self.first.expand(len(x), -1, -1).to(x.dtype), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x.float())


class BertAttention(nn.Module):
    """Attention and the norm after it, with the names of transformers' Blip2QFormerAttention."""

    def __init__(self, shapes: Shapes, memory_width: int) -> None:
        super().__init__()
        width = shapes.bridge_width
        self.heads = shapes.bridge_heads
        self.attention = nn.ModuleDict(
            {"query": nn.Linear(width, width), "key": nn.Linear(memory_width, width),
             "value": nn.Linear(memory_width, width)}
        )  # fmt: skip
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """float[M, K, W], memory float[M, N, W'], mask float[M, 1, 1, N], 0 or -10000 -> float[M, K, W]"""
        part = self.attention
        q, k, v = (
            part[name](given).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name, given in (("query", x), ("key", memory), ("value", memory))
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.output["LayerNorm"](self.output["dense"](y) + x)


class BertLayer(nn.Module):
    def __init__(self, shapes: Shapes, number: int) -> None:
        super().__init__()
        width = shapes.bridge_width
        self.attention = BertAttention(shapes, width)
        self.crossattention = BertAttention(shapes, shapes.vision_width) if number % 2 == 0 else None
        self.intermediate_query = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
        self.output_query = nn.ModuleDict(
            {"dense": nn.Linear(4 * width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)}
        )

    def forward(self, x: Tensor, memory: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
        x = self.attention(x, x, masks[0])
        if self.crossattention is not None:
            x = self.crossattention(x, memory, masks[1])
        y = F.gelu(self.intermediate_query["dense"](x))
        return self.output_query["LayerNorm"](self.output_query["dense"](y) + x)


class QueryTransformer(nn.Module):
    """The query-only BERT of BLIP-2; masks of ones are added as zeros, as in the reference."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(shapes.bridge_width, eps=1e-12)
        layers = nn.ModuleList(BertLayer(shapes, number) for number in range(shapes.bridge_depth))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """float[M, K, W], float[M, N, W'] -> float[M, K, W]"""
        x = self.layernorm(queries)
        masks = tuple((1.0 - torch.ones(len(x), 1, 1, one.shape[1])) * -10000.0 for one in (x, memory))
        for layer in self.encoder["layer"].children():
            x = layer(x, memory, masks)
        return x


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        exact = x.float()
        exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * exact.to(x.dtype)


class LlamaLayer(nn.Module):
    """A layer of transformers 4.28's Llama: eager attention with a mask of all positions, softmax in fp32."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        width, hidden = shapes.width, shapes.mlp_width
        self.heads = shapes.heads
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        self.self_attn = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in names})
        sizes = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
        self.mlp = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})
        self.input_layernorm, self.post_attention_layernorm = Norm(width), Norm(width)

    def forward(self, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self._attention(self.input_layernorm(x), mask, rotary)
        y, mlp = self.post_attention_layernorm(x), self.mlp
        return x + mlp["down_proj"](F.silu(mlp["gate_proj"](y)) * mlp["up_proj"](y))

    def _attention(self, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        part = self.self_attn
        q, k, v = (
            part[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = rotated(q, *rotary), rotated(k, *rotary)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + mask
        scores = torch.max(scores, torch.tensor(torch.finfo(scores.dtype).min))
        shares = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
        return part["o_proj"]((shares @ v).transpose(1, 2).flatten(2))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """float[B, heads, L, C] turned by its positions; cos and sin float[B, 1, L, C]"""
    one, other = x.chunk(2, -1)
    return x * cos + torch.cat([-other, one], -1) * sin


class Llama(nn.Module):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.channels = shapes.width // shapes.heads
        layers = nn.ModuleList(LlamaLayer(shapes) for _ in range(shapes.depth))
        embedding = nn.Embedding(shapes.vocabulary, shapes.width)
        self.model = nn.ModuleDict({"embed_tokens": embedding, "layers": layers, "norm": Norm(shapes.width)})
        self.lm_head = nn.Linear(shapes.width, shapes.vocabulary, bias=False)

    def forward(self, embeds: Tensor, is_token: Tensor, labels: Tensor) -> Tensor:
        """The mean loss, float[]. embeds float[B, L, D], is_token bool[B, L], labels int64[B, L] with -100 for none"""
        length, dtype = embeds.shape[1], embeds.dtype
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1) | ~is_token[:, None, None]  # [B, 1, L, L]
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
        rotary = self._rotary(length, dtype)
        x = embeds
        for layer in self.model["layers"].children():
            x = layer(x, mask, rotary)
        logits = self.lm_head(self.model["norm"](x))  # [B, L, V]
        shifted, target = logits[:, :-1].contiguous(), labels[:, 1:].contiguous()
        return F.cross_entropy(shifted.flatten(0, 1), target.flatten())

    def _rotary(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        frequencies = 1.0 / 10000.0 ** (torch.arange(0, self.channels, 2).float() / self.channels)
        angles = torch.outer(torch.arange(length).float(), frequencies)
        angles = torch.cat([angles, angles], -1)[None, None]  # [1, 1, L, C]
        return angles.cos().to(dtype), angles.sin().to(dtype)


class ReferenceModel(nn.Module):
    """images float[B, 3, H, H] or frames float[B, T, 3, H, H], and padded sequences -> the mean loss"""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.vision = Vision(shapes)
        self.query_tokens = nn.Parameter(torch.zeros(1, shapes.num_queries, shapes.bridge_width))
        self.qformer = QueryTransformer(shapes)
        self.proj = nn.Linear(shapes.bridge_width, shapes.width)
        self.llama = Llama(shapes)

    def forward(self, media: Tensor, ids: Tensor, is_slot: Tensor, is_token: Tensor, labels: Tensor) -> Tensor:
        """ids, labels int64[B, L]; is_slot, is_token bool[B, L]"""
        with torch.no_grad():
            frames = media.unbind(1) if media.ndim == 5 else [media]
            features = torch.cat([self.vision(frame) for frame in frames], 1)  # [B, T * N, W]
        queries = self.query_tokens.expand(len(features), -1, -1)
        tokens = self.proj(self.qformer(queries, features))  # [B, K, D]
        embeds = self.llama.model["embed_tokens"](ids)  # [B, L, D]
        embeds = embeds.masked_scatter(is_slot[..., None], tokens.to(embeds.dtype))
        return self.llama(embeds, is_token, labels)
