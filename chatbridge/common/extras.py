"""Optional packages: which extra of setup.py brings them, and how to ask for one."""

from __future__ import annotations

import importlib
from types import ModuleType

EXTRAS = {  # importable module -> extra in setup.py
    "gradio": "serve",
    "decord": "video",
    "av": "video",
    "torchcodec": "torchcodec",
    "soundfile": "audio",
    "torchaudio": "audio",
    "s3fs": "remote",
    "bitsandbytes": "quantized",
}


def need(module: str, purpose: str) -> ModuleType:
    """The optional package, imported; `purpose` completes "... is needed for".

    raises   ImportError that names the package and the extra to install
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the package is there, something inside it is not
        message = f"the package {module!r} is needed for {purpose}; {how_to_install(module)}"
        raise ModuleNotFoundError(message, name=error.name) from None


def how_to_install(module: str) -> str:
    """The command that brings a module, with the extra that lists it where there is one."""
    package = module.partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return f"install it with: pip install {package}"
    return f"install it with: pip install -e '.[{extra}]' (in ChatBridge's folder)"
