"""Serve a model to OpenAI's clients: `chatbridge serve --cfg-path eval_configs/x.yaml`."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from chatbridge.cli.arguments import add_chat_model, require_chat_model
from chatbridge.cli.serve_arguments import add_server_settings, server_settings
from chatbridge.cli.serve_vllm import add_vllm, check_vllm, vllm_backend, vllm_config
from chatbridge.common import log
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.extras import need
from chatbridge.experiment.build import plan_chat
from chatbridge.experiment.open import as_trained, config_of, open_chat
from chatbridge.experiment.roots import Chat
from chatbridge.serve.backend import Backend
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.moved_files import hint_moved_files
from chatbridge.serve.vllm.front_folder import FRONT, is_front

if TYPE_CHECKING:
    from chatbridge.serve.openai_api.api_keys import ApiKeys
    from chatbridge.serve.openai_api.settings import ServerSettings

logger = log.get_logger("serve")
DESCRIPTION = """Serve a model through the chat API of OpenAI: POST /v1/chat/completions, GET /v1/models, /health,
/metrics.

  chatbridge serve --cfg-path eval_configs/x.yaml              on http://127.0.0.1:8000/v1
  chatbridge serve --checkpoint runs/x --host 0.0.0.0 --api-key-file keys.txt
  chatbridge serve --checkpoint DIR/front --vllm-url http://gpu1:8000 --vllm-url http://gpu2:8000
                                                               the language model runs in vLLM, see chatbridge export"""
EPILOG = """Only this machine can connect unless --host says otherwise; other machines need an API key: one per line of
--api-key-file, or in CHATBRIDGE_API_KEY. Ctrl-C or SIGTERM lets running answers end first."""
PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "httpx")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    args = parse_arguments(arguments)
    log.setup()
    _check_packages()
    if args.checkpoint is None or args.cfg_path is not None or args.vllm_url:
        return serve(args)
    args.options = as_trained(args.options)
    with hint_moved_files(f"chatbridge serve --checkpoint {args.checkpoint} --options {{}}"):
        return serve(args)


def parse_arguments(arguments: Sequence[str] | None) -> Namespace:
    parser = argparse.ArgumentParser(
        prog="chatbridge serve", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_chat_model(parser)
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="the API keys, one per line")
    add_vllm(parser)
    add_server_settings(parser)
    args = parser.parse_args(arguments)
    require_chat_model(parser, args)
    return args


def serve(args: Namespace) -> int:
    """Everything that can be wrong is reported before the weights are read."""
    from chatbridge.serve.openai_api.app import build_app
    from chatbridge.serve.openai_api.http_server import HttpServer, open_socket

    config, settings, keys = checked(args)
    if args.check:
        print(plan_chat(config, args.gpu_id))
        return 0
    if not settings.model_name:
        settings = replace(settings, model_name=(default_name(args),))
    with open_socket(settings) as listener:  # before the weights are read: a port that is taken is known at once
        backend = backend_of(config, args)
        logger.info("\n".join(backend.about))
        server = HttpServer(build_app(backend, settings, keys), settings)
        host, port = listener.getsockname()[:2]
        place = f"[{host}]" if ":" in host else host
        logger.info("serving %s at %s://%s:%d/v1", " and ".join(settings.model_name), settings.scheme, place, port)
        if not settings.is_local and settings.scheme == "http":
            logger.warning("keys and answers are sent in plain text; use --tls-certificate, or a proxy that has one")
        server.run_on(listener)
    return 0


def checked(args: Namespace) -> tuple[Chat, ServerSettings, ApiKeys]:
    """The settings of the model and of the server, and the keys of clients. raises ConfigError with all problems"""
    from chatbridge.serve.openai_api.api_keys import ApiKeys, read_keys
    from chatbridge.serve.openai_api.settings import ServerSettings

    problems: list[Problem] = []
    config, settings, keys = None, ServerSettings(), ApiKeys()
    with collected(problems):
        settings = server_settings(args)
    with collected(problems):
        keys = read_keys(args.api_key_file)
    with collected(problems):
        check_vllm(args)
    with collected(problems):
        config = opened(args)
    if not (settings.is_local or keys or settings.allow_anonymous or args.api_key_file):
        hint = "give --api-key-file, or --allow-anonymous where the network itself is protected"
        problems.append(
            Problem("--host", f"{settings.host} lets other machines in, and there is no API key", hint=hint)
        )
    if problems or config is None:
        raise ConfigError(problems)
    return config, settings, keys


def opened(args: Namespace) -> Chat:
    """The configuration. raises ConfigError"""
    if args.vllm_url or _names_front(args):
        return vllm_config(args)
    cfg_path = config_of(args.checkpoint) if args.cfg_path is None else args.cfg_path
    return open_chat(cfg_path, args.options, args.checkpoint).config


def _names_front(args: Namespace) -> bool:
    return args.checkpoint is not None and is_front(Path(args.checkpoint))


def backend_of(config: Chat, args: Namespace) -> Backend:
    """What answers the requests."""
    if args.vllm_url:
        return vllm_backend(args)
    return ChatEngine.from_settings(config, args.gpu_id)


def default_name(args: Namespace) -> str:
    """The name of the model in requests: that of the run folder, or of the configuration."""
    if args.checkpoint is not None:
        path = Path(args.checkpoint).resolve()
        if args.vllm_url and path.name == FRONT:
            return path.parent.name
        return (path.parent if path.name.startswith("step_") else path).name
    return Path(args.cfg_path).stem


@contextmanager
def collected(problems: list[Problem]) -> Iterator[None]:
    """Add the problems of a ConfigError to those of other parts."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems


def _check_packages() -> None:
    try:
        for package in PACKAGES:
            need(package, "the server")
    except ModuleNotFoundError as error:
        raise ConfigError([Problem("serve", str(error))]) from error
