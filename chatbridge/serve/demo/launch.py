"""Serves the page: where it listens, who may log in, what it may load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.extras import need
from chatbridge.processors.limits import MB, ChatLimits
from chatbridge.serve.demo.page_content import ContentPolicy
from chatbridge.serve.demo.style import CSS, theme

Login = tuple[str, str]  # a user and a password


def launch(
    app: Any,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    block: bool = True,
    max_file_mb: float = ChatLimits.max_file_mb,
    logins: Sequence[Login] = (),
) -> Any:
    """Serve a page until Ctrl-C, or with `block` False until `app.close()`. It loads no font or script from elsewhere.

    max_file_mb   larger files are refused during their upload
    logins        who may open the page; (): everybody who reaches it
    raises   OSError if the port is in use, ValueError if this machine cannot reach its own page (a proxy)
    """
    gr: Any = need("gradio", "the demo")
    from starlette.middleware import Middleware

    settings = {
        "server_name": host, "server_port": port, "share": share, "prevent_thread_lock": not block, "quiet": not block,
        "max_file_size": int(max_file_mb * MB), "theme": theme(gr), "css": CSS, "ssr_mode": False, "pwa": False,
        "auth": list(logins) or None, "app_kwargs": {"middleware": [Middleware(ContentPolicy)]},
    }  # fmt: skip
    try:
        return app.launch(**settings)
    except ValueError:  # gradio requests its page once and waits 3 s, too short for the first request on a busy machine
        app.close()
        return app.launch(**settings)


def logins_of(given: str) -> tuple[Login, ...]:
    """Users and passwords of --auth: `user:password`, or a file with one such line for each user.

    Lines that are empty or begin with # are left out.
    raises   ValueError for something else
    """
    path = Path(given)
    is_file = path.is_file()
    if not is_file and ":" not in given:
        raise ValueError(f"is neither user:password nor a file: {given}")
    lines = path.read_text(encoding="utf-8").splitlines() if is_file else [given]
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or (is_file and line.lstrip().startswith("#")):
            continue
        user, colon, password = line.strip().partition(":")
        if not (user and colon and password):
            where = f"{given}, line {number}" if is_file else "it"
            raise ValueError(f"{where} is not of the form user:password, both of them not empty")
        if user in found:
            raise ValueError(f"{given} has the user {user} twice")
        found[user] = password
    if not found:
        raise ValueError(f"{given} has no line user:password, so nobody could log in")
    return tuple(found.items())


__all__ = ["Login", "launch", "logins_of"]
