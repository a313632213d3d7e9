"""uvicorn, set up for us: our protocol, our limits, no signal handlers, no log of its own."""

import asyncio
import contextlib
import math
import resource
import socket
import ssl
from collections.abc import Callable, Generator
from pathlib import Path

import structlog
import uvicorn
from starlette.types import ASGIApp

from app.api.kernel import probe_when_silent
from app.api.limits import MAX_REFUSED_CONNECTIONS, Limits
from app.api.protocol import LimitedProtocol
from app.api.shedding import Shedding, SheddingConfig
from app.core.config import Settings
from app.core.errors import ConfigurationError

_BACKLOG = 2048
_TICKS_PER_SWEEP = 5  # uvicorn ticks ten times per second
_SWEEP_S = 0.5
_OTHER_FILES = 256  # workers, model files, logs, the loop's own

log = structlog.get_logger("app.api")


class Server(uvicorn.Server):
    """Sweeps its connections, and leaves signals to whoever runs it: set `should_exit`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_SWEEP == 0:
            self._sweep()
        return await super().on_tick(counter)

    async def main_loop(self) -> None:
        """Watched: what comes later than it should is refused before it is read."""
        async with asyncio.TaskGroup() as tasks:
            watching = (
                tasks.create_task(self.config.shedding.watch())
                if isinstance(self.config, SheddingConfig)
                else None
            )
            try:
                await super().main_loop()
            finally:
                if watching is not None:
                    watching.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Who is slow does not hold up the stop for all of the grace."""
        sweeping = asyncio.create_task(self._keep_sweeping())
        try:
            await super().shutdown(sockets)
        finally:
            sweeping.cancel()

    async def _keep_sweeping(self) -> None:
        while True:  # ticks have ended
            await asyncio.sleep(_SWEEP_S)
            self._sweep()

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, LimitedProtocol):
                connection.sweep(now)
        if isinstance(self.config, SheddingConfig):
            if count := self.config.occupancy.take_refused():
                log.warning("connections_refused", count=count)
            if count := self.config.occupancy.take_shed():
                log.warning("requests_shed", count=count)


def build_server(
    app: ASGIApp,
    settings: Settings,
    *,
    on_refused: Callable[[str], None] = lambda code: None,
    on_connections: Callable[[int], None] = lambda count: None,
    shedding: Shedding | None = None,
) -> Server:
    """A server to `await server.serve(sockets=[open_socket(...)])`.

    on_refused is told the code of each request that the protocol refuses below the application,
    on_connections how many are open whenever that changes.
    """
    limits = Limits(
        max_header_bytes=settings.max_header_bytes,
        max_held_body_bytes=settings.max_held_body_bytes,
        header_timeout_s=settings.header_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        answer_timeout_s=settings.answer_timeout_s,
        keep_alive_s=settings.keep_alive_s,
        max_connections=settings.max_connections,
        max_connections_per_client=settings.max_connections_per_client,
        on_refused=on_refused,
        on_connections=on_connections,
    )
    config = SheddingConfig(
        app,
        limits,
        shedding,
        loop="uvloop",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxy_networks,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s),
    )
    config.load()
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        config.ssl = tls_context(settings.tls_cert_file, settings.tls_key_file)
    return Server(config)


def tls_context(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer. Raises ConfigurationError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"cannot use TLS_CERT_FILE and TLS_KEY_FILE: {reason}") from None
    return context


def _no_password() -> str:
    """In place of OpenSSL's question at the terminal, for which nobody is there."""
    raise ValueError("the key has a password; write it without one")


def open_socket(host: str, port: int, *, silence_s: float) -> socket.socket:
    """A socket that listens, opened before anything is loaded. Raises ConfigurationError.

    silence_s: time after which a client that answers nothing, not even on the network's own
    level, is gone: its machine was cut off and could not say so.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            "stop the other server or choose another PORT"
        ) from None
    probe_when_silent(listening, silence_s)
    return listening


def allow_descriptors(max_connections: int) -> None:
    """Let this process open a file for every connection. Raises ConfigurationError.

    Out of descriptors the kernel's queue of connections fills, and nobody is told why.
    """
    wanted = max_connections + MAX_REFUSED_CONNECTIONS + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigurationError(
            f"MAX_CONNECTIONS is {max_connections}, for which this process must open {wanted} "
            f"files, and the system lets it open {hard}; lower it or raise the limit (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
