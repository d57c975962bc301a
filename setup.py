"""Packaging. `pip install -e '.[all,dev]' -c constraints.txt` gives exactly what the tests ran with."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "chatbridge" / "__init__.py").read_text())

CORE = [
    "torch>=2.8",
    "torchvision",
    "transformers>=5.0",
    "timm>=1.0.20",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "sentencepiece",  # tokenizer.model of the Llama family ...
    "protobuf",  # ... which transformers reads through protobuf
    "numpy>=2.0",
    "pillow>=10.1",
    "omegaconf>=2.3",
    "PyYAML>=6.0",
    "braceexpand",
    "filelock>=4",  # locks that a process forked from the owner does not inherit
    "fsspec",  # shards that are not on this disk
    "webdataset",  # dataset_prep writes its shards with it
    "tensorboard",
    "matplotlib",
    "tqdm",
    "rich",  # tables in the terminal
]
DECORD_HAS_A_WHEEL = 'sys_platform == "win32" or (sys_platform == "linux" and platform_machine == "x86_64")'
EXTRAS = {  # chatbridge/common/extras.py names the extra when a package is missing
    "video": ["av>=17", f"decord; {DECORD_HAS_A_WHEEL}"],  # PyAV reads everywhere; decord where it exists
    "torchcodec": ["torchcodec>=0.17"],  # needs torch>=2.11, and FFmpeg with shared libraries on the system
    "audio": ["soundfile", "torchaudio"],
    "serve": [
        "gradio>=6",
        "fastapi",
        "uvicorn",
        "httpx",
        "prometheus-client",
    ],  # the demo; the OpenAI-compatible server
    "remote": ["s3fs"],  # s3:// shards; http(s):// and pipe: need nothing
    "quantized": ["bitsandbytes>=0.46", "accelerate", "torchao>=0.15"],  # on its own: above all of use on a GPU
    "gguf": ["gguf>=0.17"],  # language models from a GGUF file
    "adapters": ["peft>=0.17"],  # LoRA, and QLoRA together with `quantized`
    "tracking": ["wandb", "mlflow-skinny"],  # run.trackers
    "review": ["openai"],  # chatbridge review judge
    "generators": ["diffusers>=0.35", "accelerate"],  # images in answers, by a diffusion pipeline
    "construction": ["scikit-learn>=1.5", "rapidfuzz", "openai"],  # python -m dataset_prep.textbind
    "stamps": ["resvg-py"],  # drawings of the stamps run that exist as SVG only
    "parquet": ["pyarrow"],  # python -m dataset_prep.av_odyssey
    "submissions": ["openpyxl"],  # the MMBench submission is an Excel file
    "metrics": ["jiwer>=4", "rapidfuzz"],  # word error rate, ANLS
    "dev": [
        "bitsandbytes>=0.46",
        "torchao>=0.15",
        "playwright",  # the demo's tests in a real browser; they run where Chromium is installed too
        "peft>=0.17",
        "wandb",
        "mlflow-skinny",
        "openai",
        "diffusers>=0.35",
        "scikit-learn>=1.5",
        "rapidfuzz",
        "openpyxl",
        "resvg-py",
        "pycocoevalcap",  # the official caption metrics, which tests compare ours with; some need Java
        "accelerate",  # with which transformers loads weights in 8 bit
        "torchcodec>=0.17",  # its tests run where FFmpeg is installed too
        "pytest>=8",
        "pytest-xdist",
        "pytest-timeout",
        "ruff",
        "pyright[nodejs]",
        "pre-commit",
        "wheel",  # a test builds and installs one
    ],
    "docs": ["zensical", "mkdocstrings[python]"],  # `make docs`; apart from dev, so that `make test` installs less
}
EXTRAS["all"] = [
    package for name in ("video", "audio", "serve", "gguf", "adapters", "metrics") for package in EXTRAS[name]
]


class BuildWithConfigs(build_py):
    """Puts the shipped YAML into the wheel as chatbridge/configs, where `config.merge` looks for it second."""

    def run(self) -> None:
        super().run()
        if not getattr(self, "editable_mode", False):
            shutil.copytree(HERE / "configs", Path(self.build_lib, "chatbridge", "configs"), dirs_exist_ok=True)


assert VERSION is not None
setup(
    name="chatbridge",
    version=VERSION.group(1),
    description="Multimodal language models, described and trained from YAML files",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author="The ChatBridge authors",
    license="BSD-3-Clause",
    # the suite passed with these
    classifiers=[f"Programming Language :: Python :: {version}" for version in ("3.11", "3.12", "3.13")],
    python_requires=">=3.11",
    packages=find_packages(include=["chatbridge", "chatbridge.*"]),
    package_data={"chatbridge": ["**/*.html", "**/*.css", "**/*.json", "**/*.yaml", "**/*.txt.gz"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["chatbridge = chatbridge.__main__:run"],
        "lmms_eval.models": ["chatbridge = chatbridge.serve.lmms_eval_model:manifest"],  # lmms-eval --model chatbridge
    },
    cmdclass={"build_py": BuildWithConfigs},
)
