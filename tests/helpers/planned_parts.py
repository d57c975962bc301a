"""Small models whose memory is predicted, and measured with the same model and real tensors."""

from __future__ import annotations

from typing import Any

import torch

from chatbridge.common.dist import Dist
from chatbridge.config.schema import parse
from chatbridge.models.adapter_layers import inject_adapters
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import trainable_parameters
from chatbridge.models.config import ModelConfig
from chatbridge.models.memory import checkpoint_activations
from chatbridge.models.placement import place_model
from chatbridge.models.trainable import set_trainable
from chatbridge.runners.optim import OptimizerConfig, build_optimizer
from chatbridge.runners.parallel.replicate import Replicated
from chatbridge.runners.planned_step.measure import MeasuredStep, measured
from chatbridge.runners.planned_step.synthetic_batch import PlannedBatch
from tests.helpers.tiny_models import model_mapping

SIZES = {"vocab_size": 600, "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3,
         "num_attention_heads": 4, "eos_token_id": 2, "bos_token_id": 1}  # fmt: skip


def small_config(*trainable: str, **changes: Any) -> ModelConfig:
    """A model whose activations are larger than its weights."""
    language = {"name": "causal_lm", "architecture": SIZES}
    return parse(ModelConfig, model_mapping(language=language, trainable=list(trainable), **changes))


def small_model(config: ModelConfig, on_meta: bool, checkpointed: tuple[str, ...] = ()) -> ChatModel:
    """On the meta device, or with random weights; with its adapters."""
    torch.manual_seed(0)
    with torch.device("meta" if on_meta else "cpu"):
        model = ChatModel(config)
        set_trainable(model, config.trainable, config.adapters)
        inject_adapters(model, config.adapters)
    checkpoint_activations(model, checkpointed)
    return model


def measured_peak(
    config: ModelConfig, shape: PlannedBatch, dtype: torch.dtype, checkpointed: tuple[str, ...] = ()
) -> MeasuredStep:
    """The peak of a real step on the CPU."""
    model = small_model(config, on_meta=False, checkpointed=checkpointed)
    place_model(model, "cpu", dtype)
    parallel = Replicated(trainable_parameters(model), Dist())
    return measured(model, shape, parallel, build_optimizer(parallel.parameters, OptimizerConfig()), repeats=0)
