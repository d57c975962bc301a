"""What the media that a request names may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chatbridge.common.errors import Problem
from chatbridge.config.schema import Range, Unit


@dataclass(frozen=True, kw_only=True)
class SourceLimits:
    """Limits of the media that requests name. The size of one file is evaluation.chat.max_file_mb."""

    connect_s: Annotated[float, Unit("seconds"), Range(above=0)] = 5.0  # to resolve a host, and to connect to it
    read_s: Annotated[float, Unit("seconds"), Range(above=0)] = 10.0  # between two pieces of a download
    total_s: Annotated[float, Unit("seconds"), Range(above=0)] = 30.0  # of a download, redirects included
    max_redirects: Annotated[int, Range(low=0)] = 3  # of a download; each target is checked like the first address
    ports: tuple[int, ...] = (80, 443)  # that downloads may connect to; empty: all
    hosts: tuple[str, ...] = ()  # downloads come from these and their subdomains only; empty: from every public host
    max_items: Annotated[int, Range(low=1)] = 32  # media of one request
    max_request_mb: Annotated[float, Unit("MB"), Range(above=0)] = 400.0  # of all media of one request
    max_downloads: Annotated[int, Range(low=1)] = 16  # at the same time, of all requests

    def problems(self) -> list[Problem]:
        found = [
            Problem("ports", f"{port} is not a port", hint="ports are 1 to 65535")
            for port in self.ports
            if not 0 < port < 65536
        ]
        for host in self.hosts:
            if not host or "/" in host or ":" in host or "*" in host:
                hint = "write the name alone, such as images.example.org; its subdomains are included"
                found.append(Problem("hosts", f"{host!r} is not a host name", hint=hint))
        return found
