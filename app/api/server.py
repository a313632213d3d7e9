"""uvicorn, set up for us: our protocol, our limits, no signal handlers, no log of its own."""

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable, Generator

import uvicorn
from starlette.types import ASGIApp

from app.api.protocol import LimitedConfig, LimitedProtocol, Limits
from app.core.config import Settings
from app.core.errors import ConfigurationError

_BACKLOG = 2048
_TICKS_PER_SWEEP = 5  # uvicorn ticks ten times per second


class Server(uvicorn.Server):
    """Sweeps its connections, and leaves signals to whoever runs it: set `should_exit`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_SWEEP == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedProtocol):
                    connection.sweep(now)
        return await super().on_tick(counter)


def build_server(
    app: ASGIApp, settings: Settings, *, on_refused: Callable[[str], None] = lambda code: None
) -> Server:
    """A server to `await server.serve(sockets=[open_socket(...)])`.

    on_refused is told the code of each request that the protocol refuses below the application.
    """
    limits = Limits(
        max_header_bytes=settings.max_header_bytes,
        header_timeout_s=settings.header_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        keep_alive_s=settings.keep_alive_s,
        max_connections=settings.max_connections,
        on_refused=on_refused,
    )
    config = LimitedConfig(
        app,
        limits,
        loop="uvloop",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s),
    )
    return Server(config)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens, opened before anything is loaded. Raises ConfigurationError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            "stop the other server or choose another PORT"
        ) from None
