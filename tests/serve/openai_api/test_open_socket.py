"""The socket that the server listens on."""

from __future__ import annotations

import asyncio
import socket

from chatbridge.serve.openai_api.http_server import open_socket
from chatbridge.serve.openai_api.settings import ServerSettings


def test_connections_send_small_answers_at_once():
    """fails when Nagle's algorithm holds the second packet of an answer until the client's delayed ACK, 40 ms later"""

    async def no_delay() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            one = writer.get_extra_info("socket")
            accepted.set_result(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with open_socket(ServerSettings(port=0)) as listener:
            async with await asyncio.start_server(on_client, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                writer.close()
                return await asyncio.wait_for(accepted, 10)

    assert asyncio.run(no_delay())
