"""Clients that ask for long texts and read nothing at all."""

import asyncio
import json
from collections.abc import Callable
from typing import Any


async def come_and_stay(
    port: int, path: str, body: dict[str, Any], count: int, look: Callable[[], object]
) -> None:
    """So many, from addresses of their own, for four seconds; `look` is called meanwhile."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n".encode()
    writers = []
    for number in range(count):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(f"127.0.1.{1 + number % 200}", 0)
        )
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        transport: Any = writer.transport
        transport.pause_reading()
        writers.append(writer)
    for _ in range(20):
        await asyncio.sleep(0.2)
        look()
    for writer in writers:
        writer.transport.abort()
