"""Tiny random configurations of well-known encoders and language models, as a YAML gives them."""

from __future__ import annotations

from typing import Any

VIT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
       "image_size": 28, "patch_size": 14}  # fmt: skip


def _vision(model_type: str, **sizes: Any) -> dict[str, Any]:
    return {"name": "hf_vision", "architecture": {"model_type": model_type, **(sizes or VIT)}}


CLIP = _vision("clip_vision_model")
SIGLIP = _vision("siglip_vision_model")
DINOV2 = _vision("dinov2")
CONVNEXT = _vision("convnext", hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=64)
TIMM_VIT = {
    "name": "timm_vision", "model": "vit_tiny_patch16_224", "image_size": 28,
    "architecture": {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 14},
}  # fmt: skip
TIMM_CONVNET = {
    "name": "timm_vision", "model": "convnext_atto", "image_size": 64,
    "architecture": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
}  # fmt: skip

AST = {
    "name": "hf_audio", "extractor": {"max_length": 32, "num_mel_bins": 32},
    "architecture": {"model_type": "audio-spectrogram-transformer", "hidden_size": 16, "intermediate_size": 32,
                     "num_hidden_layers": 1, "num_attention_heads": 2, "max_length": 32, "num_mel_bins": 32},
}  # fmt: skip
WHISPER = {
    "name": "hf_audio", "extractor": {"feature_size": 16, "chunk_length": 1},
    "architecture": {"model_type": "whisper", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
                     "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
                     "decoder_ffn_dim": 32, "num_mel_bins": 16, "max_source_positions": 50, "vocab_size": 60,
                     "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
}  # fmt: skip
CLAP = {
    "name": "hf_audio",
    "extractor": {"feature_size": 64, "max_length_s": 1, "hop_length": 480, "truncation": "rand_trunc"},
    "architecture": {"model_type": "clap_audio_model", "patch_embeds_hidden_size": 8, "hidden_size": 16,
                     "depths": [1, 1], "num_attention_heads": [2, 2], "num_hidden_layers": 2, "num_mel_bins": 64,
                     "spec_size": 128, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4]},
}  # fmt: skip
