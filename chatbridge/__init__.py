"""ChatBridge teaches a frozen language model to see and hear, from YAML."""

__version__ = "0.1.0"

__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> object:
    """`from chatbridge import load_model`; importing the package alone stays quick, without torch."""
    if name == "load_model":
        from chatbridge.serve.load import load_model

        return load_model
    raise AttributeError(f"module 'chatbridge' has no attribute {name!r}")
