"""The section model: encoders, bridge, language model, and what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatbridge.cli.migrate.migration import Migration
from chatbridge.config.original_keys import ORIGINAL_KEYS
from chatbridge.config.origins import MISSING

EVA = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth"
BLIP2 = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/blip2_pretrained_flant5xxl.pth"
OPT = {  # size -> the config.json of facebook/opt-*
    "2.7b": {"hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240},
    "6.7b": {"hidden_size": 4096, "word_embed_proj_dim": 4096, "ffn_dim": 16384},
}
OPT_COMMON = {"model_type": "opt", "vocab_size": 50272, "max_position_embeddings": 2048, "num_hidden_layers": 32,
              "num_attention_heads": 32}  # fmt: skip
DROPOUT = 0.1  # of BERT, which `drop: True` leaves on


def model_rows(m: Migration) -> None:
    """Rows of the sections model, preprocess and env, those of the prompt excepted (prompt_rows)."""
    _which_model(m)
    _vision(m)
    _bridge(m)
    _language(m)
    _trainable(m)
    _checkpoints(m)
    m.not_needed("preprocess")
    m.not_needed("env")
    for key in ("model.load_pretrained", "model.load_finetuned", "model.max_context_len"):
        m.not_needed(key)


def _which_model(m: Migration) -> None:
    family = m.family
    here = f"base: {family.base}" if family.base else "model (written out)"
    m.changed("model.arch", here, "a model is a YAML of parts")
    if m.has("model.model_type"):
        m.changed("model.model_type", here, family.size_from or "the base file names the language model")
    if family.name == "blip2_opt":
        _write_blip2_opt(m)
    if family.name == "instructblip":
        m.limits.append("the Q-Former of InstructBLIP reads the instruction too; the one here reads the image alone")
    if family.is_lavis and not m.is_training:
        m.set("run.init_from", MISSING, "a run of yours: the projection of a file that LAVIS released is not read")
        m.limits.append(
            "released files of LAVIS cannot be evaluated: of them ViT and Q-Former are read, not the projection"
        )


def _write_blip2_opt(m: Migration) -> None:
    """BLIP-2 over OPT: no shipped file describes it."""
    vision = {"name": "eva_vit", "size": "g", "image_size": 224, "train_resize": "bicubic"}
    for key, value in vision.items():
        m.target.set(f"model.encoders.vision.{key}", value)
    m.target.set("model.encoders.vision.weights", MISSING, f"eva_vit_g.pth: {EVA}")
    m.target.set("model.encoders.vision.norm_weights", "${model.bridges.perceiver.weights}")
    m.target.set("model.bridges.perceiver.name", "qformer")
    m.target.set("model.bridges.perceiver.num_queries", 32)
    m.target.set("model.bridges.perceiver.weights", MISSING, f"a file of BLIP-2 with its Q-Former, for example {BLIP2}")
    m.target.set("model.language.name", "causal_lm")
    m.target.set("model.language.template", "caption")
    m.target.set("model.language.weights", MISSING, f"folder of facebook/opt-{m.family.size}")
    m.target.set("model.language.architecture", {**OPT_COMMON, **OPT[m.family.size]})
    m.target.set("model.routes.image", {"encoder": "vision", "bridge": "perceiver"})


def _vision(m: Migration) -> None:
    at = f"model.encoders.{m.family.vision}"
    if m.has("model.image_size"):
        m.move("model.image_size", f"{at}.image_size")
    kind = m.value("model.vit_model")
    if kind in (None, "eva_clip_g"):
        if m.has("model.vit_model"):
            m.taken("model.vit_model", f"{at}.size: g")
    elif str(kind).endswith((".pth", ".pt", ".safetensors")):
        m.path("model.vit_model", f"{at}.weights")
    else:
        note = f"name another encoder at {at}, for example {{name: hf_vision, weights: openai/clip-vit-large-patch14}} "
        m.no_equal("model.vit_model", f"this file has EVA-ViT-g; {note}for clip_L (docs/swapping.md)")
    if m.has("model.vit_path"):
        m.path("model.vit_path", f"{at}.weights")
    if m.value("model.drop_path_rate") in (0, 0.0, None):
        m.not_needed("model.drop_path_rate", "0: there is none")
    else:
        m.no_equal("model.drop_path_rate")
    _precision(m, at)
    _grad_checkpoint(m)
    if m.has("model.beats_path"):
        m.path("model.beats_path", "model.encoders.audio.weights")
    if m.has("model.multi_sample"):
        _multi_sample(m)


def _precision(m: Migration, at: str) -> None:
    kind = m.value("model.vit_precision")
    if kind == "fp32":
        component = at.removeprefix("model.")
        note = "frozen parameters of the encoder are stored in fp32"
        m.changed("model.vit_precision", m.set("run.compute_dtype", {component: "fp32"}), note)
    elif m.has("model.vit_precision"):
        m.changed("model.vit_precision", "run.precision: auto", ORIGINAL_KEYS["model.vit_precision"].note)


def _grad_checkpoint(m: Migration) -> None:
    if not m.value("model.use_grad_checkpoint"):
        m.not_needed("model.use_grad_checkpoint", "off")
    elif not m.is_training:
        m.not_needed("model.use_grad_checkpoint", "nothing is trained")
    elif m.original.get("model", "freeze_vit") is not False:
        m.not_needed("model.use_grad_checkpoint", "the encoder is frozen and keeps no activations for a backward pass")
    else:
        here = m.set("run.activation_checkpointing", [f"encoders.{m.family.vision}"])
        m.taken("model.use_grad_checkpoint", here)


def _multi_sample(m: Migration) -> None:
    if not m.value("model.multi_sample"):
        return m.not_needed("model.multi_sample", "off: frames and clips have no temporal embedding")
    return m.move("model.multi_sample", "model.bridges.perceiver.temporal", value={"visual": 4, "sound": 2})


def _bridge(m: Migration) -> None:
    has = m.original.get("model", "has_qformer")
    wanted = m.family.bridge == "perceiver"
    if m.has("model.has_qformer"):
        if bool(has) == wanted:
            m.taken("model.has_qformer", f"model.bridges.{m.family.bridge}")
        else:
            other = "models/minigpt4_llama2.yaml" if wanted else "models/minigpt4_vicuna7b.yaml"
            note = f"no shipped model has this combination; copy {other} and give it the other language model"
            m.no_equal("model.has_qformer", note)
    at = f"model.bridges.{m.family.bridge}"
    for key in ("model.num_query_token", "model.q_former_model", "model.drop"):
        if m.has(key) and not wanted:
            m.not_needed(key, "this model has no Q-Former")
    if m.has("model.num_query_token"):
        m.move("model.num_query_token", f"{at}.num_queries")
    if m.has("model.q_former_model"):
        _download(m, "model.q_former_model", f"{at}.weights")
    if m.has("model.drop"):
        if m.is_training:
            if m.value("model.drop"):
                m.move("model.drop", f"{at}.dropout", "the rate of BERT, which true leaves on", value=DROPOUT)
            else:
                m.taken("model.drop", f"{at}.dropout: 0")
        else:
            m.not_needed("model.drop", "nothing is trained, and answers are given without dropout")


def _download(m: Migration, key: str, path: str) -> None:
    """A file that the original downloads when it is an address."""
    text = str(m.value(key))
    if not text.startswith(("http://", "https://")):
        return m.path(key, path)
    _, origins = m.target.below()
    if path not in origins.entries:
        m.set(path, MISSING, text)
    return m.changed(
        key, f"{path}: {MISSING}", "not downloaded by a run: `chatbridge weights fetch` brings it, then name it"
    )


def _language(m: Migration) -> None:
    for key in ("model.llama_model", "model.llm_model", "model.opt_model"):
        if m.has(key):
            text = str(m.value(key))
            is_id = text.count("/") == 1 and not text.startswith((".", "/", "~")) and m.found(text) is None
            if key == "model.opt_model" and is_id:
                note = "an owner/name is read from the local cache, never downloaded by a run"
                m.changed(
                    key, f"model.language.weights: {MISSING}", f"{text}: {note}; fetch it, then name it or its folder"
                )
            else:
                m.path(key, "model.language.weights")
    if m.has("model.low_resource"):
        m.move("model.low_resource", "model.language.load_in_8bit", ORIGINAL_KEYS["model.low_resource"].note)
        if m.is_training and m.original.get("model", "low_resource") is False:
            del m.target.settings["model.language.load_in_8bit"]  # the default
    m.not_needed("model.device_8bit")


def _trainable(m: Migration) -> None:
    """freeze_vit, freeze_beat(s), freeze_qformer: patterns of what is trained, in the families whose base differs."""
    frozen = {name: m.original.get("model", f"freeze_{name}") for name in ("vit", "beat", "beats", "qformer")}
    if not m.is_training:
        for name in frozen:
            m.not_needed(f"model.freeze_{name}", "nothing is trained")
        return
    bridge, output = f"bridges.{m.family.bridge}", f"bridges.{m.family.bridge}.output"
    wanted = [f"{output}.*" if frozen["qformer"] else f"{bridge}.*"]
    if m.family.is_chatbridge:
        wanted = ["bridges.*"] if frozen["qformer"] is False else wanted if frozen["qformer"] else ["bridges.*"]
    elif m.family.is_minigpt4:
        wanted = [f"{bridge}.*"] if frozen["qformer"] is False or bridge.endswith("projection") else [f"{output}.*"]
    if frozen["vit"] is False:
        wanted.append(f"encoders.{m.family.vision}.*")
    if False in (frozen["beat"], frozen["beats"]):
        wanted.append("encoders.audio.*")
    here = m.set("model.trainable", wanted)
    for name in frozen:
        if m.has(f"model.freeze_{name}"):
            m.changed(f"model.freeze_{name}", here, "the patterns name what is trained; everything else is frozen")
    if m.family.is_lavis:
        why = "the Q-Former and the projection, as in BLIP-2; its norm over the features (ln_vision) stays frozen here"
        m.implied.append((here, why))


def _checkpoints(m: Migration) -> None:
    if m.has("model.ckpt"):
        m.path("model.ckpt", "run.init_from")
    for key in ("model.pretrained", "model.finetuned"):
        if not m.has(key):
            continue
        text = str(m.value(key) or "")
        if not text:
            m.not_needed(key, "no file is named")
        elif m.family.name == "blip2_opt" and key == "model.pretrained" and Path(text).name == "blip2_pretrained.pth":
            _download(m, key, "model.bridges.perceiver.weights")
        else:
            note = (
                "of such a file the vision transformer and the Q-Former can be read: model.encoders.vision.weights and "
                "model.bridges.perceiver.weights; its projection into the language model cannot"
            )
            m.no_equal(key, note)


def first(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)
