"""The public configurations of MiniGPT-4, ChatBridge and LAVIS as data: their keys and values, in our own spelling.

Facts: Vision-CAIR/MiniGPT-4 (train_configs, eval_configs, minigpt4/configs), joez17/ChatBridge (train_configs,
instructiontuning_configs, eval_configs), salesforce/LAVIS (lavis/projects/blip2, lavis/projects/instructblip).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

DISTRIBUTED = {"device": "cuda", "world_size": 1, "dist_url": "env://", "distributed": True}
TRAINING = {"lr_sched": "linear_warmup_cosine_lr", "weight_decay": 0.05, "seed": 42, "amp": True, "evaluate": False,
            "resume_ckpt_path": None, "train_splits": ["train"]} | DISTRIBUTED  # fmt: skip


def processors(part: str = "train", size: int = 224, image: str = "blip2_image_train") -> dict[str, Any]:
    return {
        "vis_processor": {part: {"name": image, "image_size": size}},
        "text_processor": {part: {"name": "blip_caption"}},
    }


def minigpt4_stage1(model_type: str = "pretrain_vicuna0") -> dict[str, Any]:
    return {
        "model": {"arch": "minigpt4", "model_type": model_type},
        "datasets": {
            "laion": {"batch_size": 64, **processors(), "sample_ratio": 115},
            "cc_sbu": {"batch_size": 64, **processors(), "sample_ratio": 14},
        },
        "run": {"task": "image_text_pretrain", "init_lr": 1e-4, "min_lr": 8e-5, "warmup_lr": 1e-6, "max_epoch": 4,
                "num_workers": 4, "warmup_steps": 5000, "iters_per_epoch": 5000,
                "output_dir": "output/minigpt4_stage1_pretrain", "wandb_log": True, "job_name": "minigpt4_pretrain",
                **TRAINING},
    }  # fmt: skip


def minigpt4_stage2(model_type: str = "pretrain_vicuna0") -> dict[str, Any]:
    llama2 = model_type == "pretrain_llama2"
    return {
        "model": {"arch": "mini_gpt4" if llama2 else "minigpt4", "model_type": model_type, "max_txt_len": 160,
                  "end_sym": "</s>" if llama2 else "###", "prompt_path": "prompts/alignment.txt",
                  "prompt_template": "[INST] {} [/INST] " if llama2 else "###Human: {} ###Assistant: ",
                  "ckpt": "/path/to/stage1/checkpoint/"},
        "datasets": {"cc_sbu_align": processors()},
        "run": {"task": "image_text_pretrain", "init_lr": 3e-5, "min_lr": 1e-5, "warmup_lr": 1e-6, "max_epoch": 5,
                "iters_per_epoch": 200, "batch_size_train": 12, "batch_size_eval": 12, "num_workers": 4,
                "warmup_steps": 200, "output_dir": "output/minigpt4_stage2_finetune", **TRAINING},
    }  # fmt: skip


def minigpt4_eval(model_type: str = "pretrain_vicuna0") -> dict[str, Any]:
    llama2 = model_type == "pretrain_llama2"
    return {
        "model": {"arch": "minigpt4", "model_type": model_type, "max_txt_len": 160,
                  "end_sym": "</s>" if llama2 else "###", "low_resource": True,
                  "prompt_template": "[INST] {} [/INST] " if llama2 else "###Human: {} ###Assistant: ",
                  "ckpt": "/path/to/checkpoint/"},
        "datasets": {"cc_sbu_align": processors(image="blip2_image_eval")},
        "run": {"task": "image_text_pretrain"},
    }  # fmt: skip


def chatbridge_pretrain() -> dict[str, Any]:
    return {
        "model": {"arch": "chatbridge", "model_type": "pretrain_vicuna", "freeze_vit": True, "freeze_beat": True,
                  "freeze_qformer": False, "drop": False},
        "run": {"task": "tri_pretrain", "init_lr": 1e-4, "min_lr": 1e-5, "warmup_lr": 1e-6, "max_epoch": 20,
                "warmup_steps": 5000, "iters_per_epoch": 10000, "output_dir": "/PATH/OF/OUTPUT/DIR",
                "valor_data_opts_path": "train_configs/audio%cc16m%webvid2m%laion_v4a2.json", "wandb_key": "WANDBKEY",
                **TRAINING},
    }  # fmt: skip


def chatbridge_instruct() -> dict[str, Any]:
    return {
        "model": {"arch": "mini_gpt4_tri", "model_type": "pretrain_vicuna", "freeze_vit": True, "freeze_beat": True,
                  "freeze_qformer": False, "stage": 2, "max_txt_len": 220, "drop": True, "end_sym": "###",
                  "prompt_path": "instructiontuning_configs/task_prompt.json",
                  "ckpt": "STAGE_ONE_PRETRAIN_WEIGHT_PATH"},
        "run": {"task": "tri_instruct", "prompt_path": "instructiontuning_configs/task_prompt.json", "init_lr": 1e-5,
                "min_lr": 8e-7, "warmup_lr": 1e-6, "max_epoch": 5, "batch_size_train": 32, "batch_size_eval": 32,
                "num_workers": 4, "warmup_steps": 500, "iters_per_epoch": 2000, "output_dir": "/PATH/OF/OUTPUT/DIR",
                "valor_data_opts_path": "instructiontuning_configs/ivaav_inschat.json", "wandb_key": "WANDBKEY",
                **TRAINING},
    }  # fmt: skip


def chatbridge_eval() -> dict[str, Any]:
    return {
        "model": {"arch": "chatbridge", "model_type": "pretrain_vicuna", "freeze_vit": True, "freeze_qformer": True,
                  "max_txt_len": 300, "end_sym": "###", "low_resource": False,
                  "prompt_template": "###Human: {} ###Assistant: ", "stage": 2, "ckpt": "MODEL_WEIGHT"},
        "run": {"task": "tri_pretrain"},
    }  # fmt: skip


def entry(name: str, task: str, steps: int, batch: int, kind: str = "image", **more: Any) -> dict[str, Any]:
    """One entry of ChatBridge's data options."""
    folders = {"audio": {"audio": f"./datasets/{name}/audios"}, "image": {"video": f"./datasets/{name}/images"},
               "video": {"video": f"./datasets/{name}/videos"},
               "both": {"video": f"./datasets/{name}/frames", "audio": f"./datasets/{name}/audios"}}[kind]  # fmt: skip
    own = {"name": name, "txt": f"./datasets/{name}.json", **folders, "datatype": "video" if kind == "both" else kind}
    format = {} if kind == "audio" else {"data_format": "frame"}
    return {"datasets": [own], **format, "task": task, "steps": steps, "n_workers": 4, "batch_size": batch, **more}


def data_options(train: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "video_resolution": 224, "video_encoder_type": "clip_vit_large_14_336px",
        "multimodal_encoder_type": "bert_base_uncased", "audio_encoder_type": "beat", "gradient_accumulation_steps": 1,
        "dataset_mix_type": "random", "audio_melbins": 64, "audio_target_length": 1024, "audio_type": 1,
        "data_cfg": {"train": train, "val": []},
    }  # fmt: skip


PRETRAIN_MIX = data_options([
    entry("cc3m", "ti", 3_000_000, 256), entry("cc12m", "ti", 12_000_000, 256), entry("laion", "ti", 200_000_000, 256),
    entry("webvid", "ti", 3_000_000, 256, "video", video_sample_num=4),
    entry("audioset-SL", "ta", 1_000_000, 256, "audio", audio_sample_num=1),
    entry("freesound", "ta", 1_000_000, 256, "audio", audio_sample_num=2),
])  # fmt: skip
FOUR, ONE = {"video_sample_num": 4}, {"audio_sample_num": 1}
INSTRUCT_MIX = data_options([
    entry("vqav2", "ti-shortqa", 10_000, 128), entry("vgqa", "ti-shortqa", 10_000, 128),
    entry("cococap", "ti-cap", 10_000, 128), entry("msrvttqa", "tv-shortqa", 10_000, 64, "video", **FOUR),
    entry("msrvttcap", "tv-cap", 10_000, 64, "video", **FOUR), entry("audiocap", "ta-cap", 10_000, 128, "audio", **ONE),
    entry("coco-reason", "ti-rea", 20_000, 16), entry("coco-detail", "ti-det", 20_000, 16),
    entry("coco-conver", "ti-conv", 20_000, 16), entry("msr-conver", "tv-conv", 20_000, 16, "video", **FOUR),
    entry("msr-detail", "tv-det", 20_000, 16, "video", **FOUR),
    entry("msr-reason", "tv-rea", 20_000, 16, "video", **FOUR),
    entry("valor-conver", "tva-conv", 20_000, 16, "both", **FOUR, **ONE),
    entry("valor-detail", "tva-det", 20_000, 16, "both", **FOUR, **ONE),
])  # fmt: skip


def blip2_stage2() -> dict[str, Any]:
    return {
        "model": {"arch": "blip2_opt", "model_type": "pretrain_opt2.7b", "load_pretrained": True, "freeze_vit": True,
                  "pretrained": "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/blip2_pretrained.pth"},
        "datasets": {"coco_caption": processors(), "vg_caption": processors(image="blip_image_train")},
        "run": {"task": "image_text_pretrain", "init_lr": 1e-4, "min_lr": 1e-5, "warmup_lr": 1e-6, "max_epoch": 10,
                "batch_size_train": 64, "batch_size_eval": 64, "num_workers": 4, "warmup_steps": 2000,
                "output_dir": "output/BLIP2/Pretrain_stage2", **TRAINING},
    }  # fmt: skip


def blip2_vqa() -> dict[str, Any]:
    return {
        "model": {"arch": "blip2_opt", "model_type": "pretrain_opt2.7b", "use_grad_checkpoint": False},
        "datasets": {"coco_vqa": {"type": "eval",
                                  "vis_processor": {"eval": {"name": "blip_image_eval", "image_size": 224}},
                                  "text_processor": {"eval": {"name": "blip_question"}}}},
        "run": {"task": "vqa", "batch_size_train": 16, "batch_size_eval": 64, "num_workers": 4, "max_len": 10,
                "min_len": 1, "num_beams": 5, "inference_method": "generate", "seed": 42,
                "prompt": "Question: {} Short answer:", "output_dir": "output/BLIP2/VQA", "evaluate": True,
                "test_splits": ["val"], **DISTRIBUTED},
    }  # fmt: skip


def instructblip_captions() -> dict[str, Any]:
    annotations = {
        split: {"url": f"https://x.org/{split}.json", "md5": "0", "storage": f"coco/annotations/{split}.json"}
        for split in ("train", "val", "test")
    }
    return {
        "model": {"arch": "blip2_vicuna_instruct", "model_type": "vicuna7b", "load_pretrained": True,
                  "prompt": "A short image caption."},
        "datasets": {"coco_caption": {"data_type": "images", **processors(), "build_info": {
            "annotations": annotations, "images": {"storage": "/export/coco/images"}}}},
        "run": {"task": "captioning", "lr_sched": "linear_warmup_cosine_lr", "init_lr": 1e-5, "min_lr": 0,
                "warmup_lr": 1e-8, "warmup_steps": 1000, "weight_decay": 0.05, "max_epoch": 1, "batch_size_train": 16,
                "batch_size_eval": 1, "num_workers": 8, "accum_grad_iters": 1, "max_len": 80, "min_len": 10,
                "num_beams": 5, "inference_method": "generate", "length_penalty": 1.0, "seed": 42, "amp": True,
                "output_dir": "output/instructblip/coco/", "resume_ckpt_path": None, "evaluate": True,
                "valid_splits": ["val"], "save_freq": -1, "val_freq": 1, **DISTRIBUTED},
    }  # fmt: skip


def blip2_finetune() -> dict[str, Any]:
    old = blip2_stage2()
    old["model"] = {"arch": "blip2_opt", "model_type": "caption_coco_opt2.7b", "load_finetuned": False,
                    "use_grad_checkpoint": True, "freeze_vit": False, "image_size": 364}  # fmt: skip
    old["datasets"] = {"coco_caption": processors(size=364, image="blip_image_train")}
    old["datasets"]["coco_caption"]["text_processor"]["train"]["prompt"] = "a photo of "
    old["datasets"]["coco_caption"]["build_info"] = {"images": {"storage": "/export/coco/images/"}}
    old["run"] |= {"max_len": 30, "min_len": 8, "num_beams": 5}
    return old


def instructblip_questions() -> dict[str, Any]:
    """The training of OK-VQA that its file of an evaluation describes too."""
    old = instructblip_captions()
    own = old["datasets"].pop("coco_caption")
    own["text_processor"]["train"]["name"] = "blip_question"
    own["build_info"]["annotations"]["test"]["storage"] = ["okvqa/a.json", "okvqa/b.json"]
    old["datasets"]["ok_vqa"] = own
    old["model"]["prompt"] = "Question: {} Short Answer:"
    old["run"]["evaluate"] = False
    return old


PUBLIC = {
    "minigpt4_stage1": minigpt4_stage1(), "minigpt4_stage2": minigpt4_stage2(), "minigpt4_eval": minigpt4_eval(),
    "minigpt4_llama2_stage1": minigpt4_stage1("pretrain_llama2"),
    "minigpt4_llama2_stage2": minigpt4_stage2("pretrain_llama2"),
    "minigpt4_llama2_eval": minigpt4_eval("pretrain_llama2"),
    "chatbridge_pretrain": chatbridge_pretrain(), "chatbridge_instruct": chatbridge_instruct(),
    "chatbridge_eval": chatbridge_eval(), "blip2_stage2": blip2_stage2(), "blip2_vqa": blip2_vqa(),
    "instructblip_captions": instructblip_captions(),
    "instructblip_questions": instructblip_questions(), "blip2_finetune": blip2_finetune(),
}  # fmt: skip


def write_public(folder: Path) -> dict[str, Path]:
    """Write all of them in one checkout, with the data options and some defaults. Returns name -> file"""
    files = {}
    for name, content in PUBLIC.items():
        files[name] = write(folder / "train_configs" / f"{name}.yaml", content)
    (folder / "chatbridge").mkdir(exist_ok=True)
    (folder / "chatbridge/__init__.py").touch()
    write(folder / "chatbridge/configs/models/chatbridge.yaml", {
        "model": {"arch": "chatbridge", "image_size": 224, "drop_path_rate": 0, "use_grad_checkpoint": False,
                  "vit_precision": "fp16", "freeze_vit": True, "freeze_qformer": True, "num_query_token": 32,
                  "llama_model": "/models/LLM/vicuna-13b", "prompt": ""},
        "preprocess": processors(part="eval"),
    })  # fmt: skip
    write(folder / "minigpt4/configs/datasets/cc_sbu/align.yaml", {"datasets": {"cc_sbu_align": {
        "data_type": "images", "build_info": {"storage": "/absolute/path/to/cc_sbu_align/"}}}})  # fmt: skip
    (folder / "train_configs/audio%cc16m%webvid2m%laion_v4a2.json").write_text(json.dumps(PRETRAIN_MIX))
    (folder / "instructiontuning_configs").mkdir()
    (folder / "instructiontuning_configs/ivaav_inschat.json").write_text(json.dumps(INSTRUCT_MIX))
    return files


def write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
