"""The recorded numbers of every reference hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.run import CASES, known_name, run_one

HOLDS = {
    "chatbridge_eva_vit": "the patch order, a bias, the GELU, an eps or the missing final norm differs",
    "chatbridge_eva_vit_posinterp_up": "the table's resize is bilinear, antialiased or corner-aligned",
    "chatbridge_eva_vit_posinterp_down": "the table's resize touches the class position",
    "chatbridge_ln_vision": "its eps is 1e-6, or its statistics are taken in half precision",
    "chatbridge_qformer": "a layer reads features it should not, or a mask does nothing",
    "chatbridge_beats": "the gate, buckets, deep-norm factor, trimmed frame, patch order or padding is off",
    "chatbridge_kaldi_fbank": "the window, preemphasis, mel scale, resampling or choice of channel differs",
    "chatbridge_audio_mapper": "a clip, its padding or the choice at evaluation differs",
    "chatbridge_image_preprocess": "a transform resizes differently, or antialias cannot be switched off",
    "chatbridge_tiny": "query sets, adapters, frame vectors, sequences, mask, shift or loss are mixed up",
    "chatbridge_frame_sampling": "a group or a pick moves",
    "chatbridge_audio_slicing": "a clip moves, or one without audio counts",
    "chatbridge_prompt_layout": "ids, slots or labels differ",
    "chatbridge_conversation_format": "a rendered string differs",
    "chatbridge_text_preprocess": "a text is cleaned differently",
    "chatbridge_lr_schedule": "the warm-up does not count inside the epoch, or the cosine not from step 0",
    "multis_chatbridge": "a string, id, label, cleaned caption or frame choice of a MULTIS annotation differs",
    "minigpt4_stage1": "stage 1 has a prompt, or its cap counts more than the caption",
    "minigpt4_stage2": "a prompt is wrapped differently, or the end is not supervised",
    "minigpt4_multi_image": "an instruction per sample cannot be expressed",
    "minigpt4_v0_code": "the rows of the first public code differ",
    "minigpt4_chat": "the system text, the marks or past answers differ",
    "minigpt4_lr": "the schedule differs",
    "minigpt4_text_processor": "captions are cleaned differently",
    "chatbind_labels": "an id, a label of either version, or the blanks of a prompt differ",
    "chatbind_templates": "one of the 17 prompt formats differs",
    "chatbind_llm": "the splice, a loss, the repeated or averaged feature, or what stage 1 trains differs",
    "chatbind_delta": "a sum is not taken in fp16, or added rows, projector or buffers are not the published ones",
    "imagebind_vision": "a norm, the repeated frame, the resize of positions or the mean over clips differs",
    "imagebind_audio": "the overlapping patches, the extra key, the scale or the mean over clips differs",
    "imagebind_text": "the causal mask, the pooled token or the clamp of the scale differs",
    "imagebind_depth_thermal_imu": "a stem, the order of IMU windows or a scale differs",
    "chatbind_encoder": "ChatBind's feature is normalised again, or audio loses its length",
    "imagebind_audio_preproc": "a clip begins elsewhere, another channel counts, or padding is normalised otherwise",
    "chatbind_audio_preproc": "the rule for clips of ChatBind's pytorchvideo is lost",
    "imagebind_video_preproc": "a clip takes other frames, a crop moves, or the resize antialiases",
    "chatbind_image_preproc": "the crop of a rule is off by a pixel, or a filter differs",
    "flamingo_clip": "the class token, a norm after the last block, QuickGELU or the patch order differs",
    "flamingo_data": "a record of one of the 17 datasets becomes another text, id or label",
    "flamingo_train_step": "a stream counts otherwise, the clip, the decay by name, the warm-up or a moment differs",
    "flamingo_lora": "the adapters of a layer or a block are scaled, placed or merged otherwise",
    "flamingo_e2e": "a batch with several images, without one, or an answer with or without beams reads another image",
    "flamingo_perceiver": "a norm, the keys of the latents, the exact GELU or the last norm of the resampler differs",
    "flamingo_xattn": "a token looks at another image, a gate is missing, or rows without images are skipped",
    "chatbind_eval": "a request text, a score or the summary of a review differs in a byte",
    "textbind_basic": "an id, a label, a position or what a token sees differs in a round, or the system text is lost",
    "textbind_generated": "a caption starts elsewhere, sees other text in one of the two masks, or is not a target",
    "textbind_truncation": "a sequence is cut elsewhere, an image is split, or a lost caption loses its opening",
    "textbind_batch": "padding, an image or a slot moves in a batch",
    "textbind_inference": "a prompt, or the image of an earlier answer in it, differs",
    "textbind_stage1": "a request of the first stage has its image elsewhere, or the caption is cleaned",
    "textbind_minigpt4_llama_tokens": "white space beside an added token has ids, or an answer ends without its blank",
    "textbind_generation": "a step feeds something else, at another position or onto another cache, or a text differs",
    "textbind_clean": "a filter hits another record, its order changes, or a cleaned or reformatted record differs",
    "textbind_converters": "a record of the second stage gets other turns, images or captions than as released",
}


def sidecar_of(reference: Path, stem: str) -> Path:
    """The sidecar of a case in this repository, or of one that is only beside it; skipped where it is not."""
    own = reference / "golden" / f"{stem}.json"
    beside = Path(__file__).parents[3] / "shared" / "reference" / "golden" / f"{stem}.json"
    if not own.exists() and not beside.exists():
        pytest.skip("no ../shared/reference/golden beside this checkout")
    return own if own.exists() else beside


@pytest.mark.parametrize("stem", HOLDS)
def test_the_reference_holds(reference: Path, stem: str) -> None:
    """Fails when what HOLDS says about a case is so."""
    line = run_one(sidecar_of(reference, stem))
    assert line["ok"], line["problems"]  # within the tolerance its sidecar states; no bound that one processor measured
    assert line["compared"] > 0 and line["file"] == stem


def test_no_case_of_our_families_is_left_out(reference: Path) -> None:
    """Fails when a golden of this repository has no line above, or a known case no golden."""
    stems = {path.stem for path in (reference / "golden").iterdir()}
    assert stems <= set(HOLDS)
    assert {known_name("", stem) for stem in HOLDS} | {"imagebind_tokenizer"} == set(CASES)


def test_ids_of_texts(reference: Path) -> None:
    """Fails when the ids of a text differ."""
    line = run_one(sidecar_of(reference, "imagebind_tokenizer"))
    assert line.get("ok"), line
