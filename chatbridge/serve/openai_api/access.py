"""Who may ask: the API key and the host name of a request, checked before its body is read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from chatbridge.serve.openai_api.api_errors import ApiError
from chatbridge.serve.openai_api.api_keys import ApiKeys
from chatbridge.serve.openai_api.settings import LOOPBACK, ServerSettings

OPEN_PATHS = ("/health", "/health/live", "/health/ready")  # for those that restart a server and hold no key
METRICS = "/metrics"


class Access:
    """Refuses requests without a valid key, or with an unknown host name.

    Without a key, a server of this machine accepts only its own names: a web page whose name suddenly points to this
    machine (DNS rebinding) could otherwise read its answers.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, keys: ApiKeys) -> None:
        self.app, self.keys = app, keys
        self.open_paths = {*OPEN_PATHS, *(() if settings.key_for_metrics else (METRICS,))}
        local = LOOPBACK if settings.is_local and not keys else ()
        self.hosts = tuple(host.lower() for host in settings.allowed_hosts) or local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), scope["path"])
        await (refusal.response if refusal else self.app)(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> ApiError | None:
        host = _name(headers.get("host", ""))
        if self.hosts and host not in self.hosts:
            text = f"this server is not called {host[:100]!r}; start it with --allowed-hosts {host[:100] or 'NAME'}"
            return ApiError(421, text, code="unknown_host")
        if not self.keys or path in self.open_paths:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        wants = {"WWW-Authenticate": "Bearer"}
        if scheme.lower() != "bearer" or not key.strip():
            text = "the request has no API key; send the header Authorization: Bearer KEY (api_key of OpenAI's client)"
            return ApiError(401, text, code="missing_api_key", headers=wants)
        if not self.keys.accept(key.strip()):
            return ApiError(401, "the API key is not valid", code="invalid_api_key", headers=wants)
        return None


def _name(host: str) -> str:
    """The host name without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


__all__ = ["Access"]
