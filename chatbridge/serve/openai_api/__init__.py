"""An HTTP server with the chat API of OpenAI, over any `serve.backend.Backend`."""
