"""The configuration of an exported model."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig


class ChatBridgeConfig(PretrainedConfig):
    """Encoders, bridges and routes of the media, and the language model.

    media        {"encoders", "bridges", "routes"} with the keys of a ChatBridge YAML, without paths of weights
    text_config  of the language model, as transformers has it
    stops        {"ids": sequences of ids that end an answer, "strings": text that does}
    num_rows     rows of the language model's vocabulary before the added tokens
    added_tokens in the order of their ids, which follow
    is_paddable  whether prompts of different lengths can share a batch: not with a recurrent state
    """

    model_type = "chatbridge"
    sub_configs = {"text_config": AutoConfig}  # pyright: ignore[reportAssignmentType] - an annotation makes it a field

    def __init__(
        self,
        media: dict[str, Any] | None = None,
        text_config: Any = None,
        stops: dict[str, Any] | None = None,
        num_rows: int | None = None,
        added_tokens: list[str] | None = None,
        is_paddable: bool = True,
        **kwargs: Any,
    ) -> None:
        self.media = media or {}
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = AutoConfig.for_model("llama") if text_config is None else text_config
        self.stops = stops or {}
        self.num_rows = num_rows
        self.added_tokens = added_tokens or []
        self.is_paddable = is_paddable
        kwargs.setdefault("tie_word_embeddings", bool(getattr(self.text_config, "tie_word_embeddings", False)))
        super().__init__(**kwargs)


__all__ = ["ChatBridgeConfig"]
