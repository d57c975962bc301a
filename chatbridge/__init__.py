"""ChatBridge trains multimodal language models that YAML files describe: image, video and audio in, text out."""

__version__ = "0.1.0"

__all__ = ["__version__", "load_model"]  # pyright: ignore[reportUnsupportedDunderAll] imported on first use


def __getattr__(name: str) -> object:
    """Import `load_model` on first use, so that `import chatbridge` stays fast and needs no torch."""
    if name == "load_model":
        from chatbridge.serve.load import load_model

        return load_model
    raise AttributeError(f"module 'chatbridge' has no attribute {name!r}")
