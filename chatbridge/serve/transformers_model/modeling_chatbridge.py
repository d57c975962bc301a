"""An exported model: media through encoders and bridges into the prompt of a causal language model of transformers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)

from chatbridge.conversation.stop_strings import Stops
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.models.bridges import Bridge
from chatbridge.models.component import Component
from chatbridge.models.encoders import Encoder
from chatbridge.models.routes import Route
from chatbridge.serve.transformers_model.answer_control import AnswerEnd, logits_processors, own_settings
from chatbridge.serve.transformers_model.configuration_chatbridge import ChatBridgeConfig
from chatbridge.serve.transformers_model.media_settings import MediaSettings, input_name, type_ids


class ChatBridgeForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Encoders, bridges and a language model. Names of tensors are those of ChatBridge: encoders.*, bridges.*, and
    language.* with transformers' names after it.

    The inputs are those of the processor: ids with placeholders, `mm_token_type_ids` that tell which positions these
    are, and a tensor of all items of each modality in reading order.
    """

    config_class = ChatBridgeConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    config: ChatBridgeConfig
    generation_config: GenerationConfig

    def __init__(self, config: ChatBridgeConfig) -> None:
        super().__init__(config)
        media = MediaSettings.read(config.media)
        self.language: Any = AutoModelForCausalLM.from_config(config.text_config)
        width = self.language.get_input_embeddings().embedding_dim
        self.encoders = nn.ModuleDict()
        for name, choice in media.encoders.items():
            self.encoders[name] = choice.part.for_routes(choice.config, media.modalities_of(name))
        self.bridges = nn.ModuleDict()
        for name, choice in media.bridges.items():
            routed = {modality: route.encoder for modality, route in media.routes.items() if route.bridge == name}
            widths = {modality: cast("Encoder", self.encoders[encoder]).width for modality, encoder in routed.items()}
            self.bridges[name] = choice.part(choice.config, widths, width)
        self._routes = media.routes
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """The model of a folder, see PreTrainedModel.from_pretrained; buffers that no file holds are computed."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        for part in (*model.encoders.values(), *model.bridges.values()):
            cast("Component", part).reset_buffers()
        return loaded

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: values come from the files, or from the constructors of the parts."""

    def get_input_embeddings(self) -> nn.Module:
        return self.language.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language.get_output_embeddings()

    def get_decoder(self) -> nn.Module:
        return self.language.get_decoder()

    @property
    def routes(self) -> dict[str, Route]:
        """Modality -> its route through an encoder and a bridge."""
        return {
            modality: Route(
                modality,
                cast("Encoder", self.encoders[route.encoder]),
                cast("Bridge", self.bridges[route.bridge]),
                route.pieces_config,
            )
            for modality, route in self._routes.items()
        }

    def media_tokens(self, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """modality -> [M, ...] as the processor makes it; returns modality -> float[M, K, D]"""
        routes = self.routes
        return {modality: routes[modality].tokens(items.to(self.device)) for modality, items in media.items()}

    def embedded(self, ids: Tensor, types: Tensor | None, media: Mapping[str, Tensor]) -> Tensor:
        """The input of the language model: embeddings, with the tokens of media at their placeholders.

        ids      int64[B, L]
        types    int64[B, L], see media_settings.TYPE_IDS; needed with media
        media    modality -> [M, ...] of all rows in reading order
        returns  float[B, L, D]
        raises   ValueError for media that do not match the placeholders in number
        """
        embeds = self.get_input_embeddings()(ids)  # [B, L, D]
        if types is None:
            if media:
                raise ValueError(
                    f"{', '.join(media)} came without mm_token_type_ids; pass all outputs of the processor"
                )
            return embeds
        flat, tokens = embeds.flatten(0, 1), self.media_tokens(media)  # [B * L, D]
        for modality, number in type_ids(self._routes).items():
            places = (types.flatten() == number).nonzero()[:, 0].to(flat.device)  # [M * K]
            found = tokens[modality].flatten(0, 1) if modality in tokens else flat[:0]  # [M * K, D]
            if len(found) != len(places):
                raise ValueError(
                    f"{modality}: the prompt has {len(places)} placeholders, {input_name(modality)} gives {len(found)} "
                    "tokens; pass all outputs of one call of the processor"
                )
            flat = flat.index_copy(0, places, found.to(flat.dtype))
        return flat.view_as(embeds)

    def _media_of(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Take the tensors of media out of the arguments of a call: modality -> [M, ...]"""
        named = {modality: inputs.pop(input_name(modality), None) for modality in self._routes}
        return {modality: items for modality, items in named.items() if items is not None and len(items)}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        input_features: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits, and with `labels` the loss, of the language model over embedded ids and media.

        input_ids, mm_token_type_ids   int64[B, L]; labels int64[B, L], -100 where nothing is supervised
        raises   ValueError for media that do not match the placeholders
        """
        given = {
            "pixel_values": pixel_values, "pixel_values_videos": pixel_values_videos, "input_features": input_features,
        }  # fmt: skip
        kwargs |= {name: value for name, value in given.items() if value is not None}
        media = self._media_of(kwargs)
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids, as the processor makes them, or inputs_embeds")
            inputs_embeds = self.embedded(input_ids, mm_token_type_ids, media)
        return self.language(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, labels=labels, **kwargs,
        )  # fmt: skip

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        attention_mask: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        seed: int | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Prompts with their answers, int64[B, L + n], as `generate` of transformers; its arguments are accepted.

        seed       of do_sample=True; the same seed gives the answer of ChatBridge. None: torch's global state
        tokenizer  finds stop strings in the text; None: the one beside the weights
        raises     ValueError without input_ids, for media that do not match the placeholders, or padding before a
                   recurrent state
        """
        if input_ids is None:
            raise ValueError("give input_ids, as the processor makes them: model.generate(**inputs)")
        if attention_mask is not None and not self.config.is_paddable and not bool(attention_mask.all()):
            raise ValueError(
                f"{self.config.text_config.model_type} has a recurrent state that includes padding: ask conversations "
                "of different lengths one by one"
            )
        embeds = self.embedded(input_ids, mm_token_type_ids, self._media_of(kwargs))
        chosen = copy.deepcopy(generation_config or self.generation_config)
        rest = chosen.update(**kwargs)
        if chosen.eos_token_id is None:
            chosen.eos_token_id = self.config.text_config.eos_token_id
        processors = logits_processors(chosen, seed, len(embeds) * (chosen.num_return_sequences or 1), embeds.device)
        with own_settings(self.language, seed, embeds.device):
            made = self.language.generate(
                inputs_embeds=embeds, attention_mask=attention_mask, generation_config=chosen,
                logits_processor=LogitsProcessorList([*(logits_processor or ()), *processors]),
                stopping_criteria=StoppingCriteriaList([*(stopping_criteria or ()), AnswerEnd(self._stops(tokenizer))]),
                **rest,
            )  # fmt: skip
        return _with_prompts(input_ids, made)

    def _stops(self, tokenizer: Any) -> Stops:
        stops = self.config.stops
        if not stops.get("strings"):
            return Stops(stops.get("ids", ()))
        if tokenizer is None:
            return self._own_stops
        read = Tokenizer(copy.deepcopy(tokenizer), self.config.num_rows, self.config.added_tokens)
        return Stops(stops.get("ids", ()), stops["strings"], read.decode)

    @cached_property
    def _own_stops(self) -> Stops:
        """raises ValueError when there is no tokenizer beside the weights"""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.name_or_path, config=self.config)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"stop strings need the tokenizer, and {self.name_or_path!r} has none ({error}); give "
                "generate(..., tokenizer=processor.tokenizer)"
            ) from None
        return self._stops(tokenizer)


def _with_prompts(ids: Tensor, made: Any) -> Any:
    """Put the prompts int64[B, L] before the answers int64[B * n, k], as `generate` of transformers does with ids."""
    answers = made if isinstance(made, Tensor) else made.sequences
    prompts = ids.to(answers.device).repeat_interleave(len(answers) // len(ids), 0)
    whole = torch.cat([prompts, answers], 1)
    if isinstance(made, Tensor):
        return whole
    made.sequences = whole
    return made


__all__ = ["ChatBridgeForConditionalGeneration"]
