"""Chat templates: how a typed conversation becomes the text and media spans one language model was trained on."""

from chatbridge.conversation.templates.base import TEMPLATES, Template, build_template

__all__ = ["TEMPLATES", "Template", "build_template"]
