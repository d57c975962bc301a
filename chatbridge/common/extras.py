"""Optional packages and the extras of setup.py that install them."""

from __future__ import annotations

import importlib
from types import ModuleType

EXTRAS = {  # importable module -> extra in setup.py
    "gradio": "serve",
    "fastapi": "serve",
    "uvicorn": "serve",
    "httpx": "serve",
    "prometheus_client": "serve",
    "decord": "video",
    "av": "video",
    "torchcodec": "torchcodec",
    "soundfile": "audio",
    "torchaudio": "audio",
    "s3fs": "remote",
    "bitsandbytes": "quantized",
    "torchao": "quantized",
    "gguf": "gguf",
    "peft": "adapters",
    "wandb": "tracking",
    "mlflow": "tracking",
    "openai": "review",
    "diffusers": "generators",
    "sklearn": "construction",
    "rapidfuzz": "metrics",
    "openpyxl": "submissions",
    "pyarrow": "parquet",
    "resvg_py": "stamps",
    "jiwer": "metrics",
}
DISTRIBUTIONS = {
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
    "resvg_py": "resvg-py",
    "prometheus_client": "prometheus-client",
}  # importable module -> package that brings it, where the names differ


def need(module: str, purpose: str) -> ModuleType:
    """Import and return an optional package; `purpose` completes "... is needed for".

    raises   ImportError that names the package and the extra to install
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the package is installed, one that it needs is not
        message = f"the package {module!r} is needed for {purpose}; {how_to_install(module)}"
        raise ModuleNotFoundError(message, name=error.name) from None


def how_to_install(module: str) -> str:
    """Return the command that installs a module, by its extra if it has one."""
    package = module.partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return f"install it with: pip install {DISTRIBUTIONS.get(package, package)}"
    return f"install it with: pip install -e '.[{extra}]' (in ChatBridge's folder)"
