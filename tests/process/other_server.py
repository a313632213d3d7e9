"""A server with OpenAI's paths that does what the first words of its prompt say, mostly wrong."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-of-our-own-4711"
SECRET = "the other server's own words"
TEXT = "Paris it is."
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class OtherServer:
    """requests: all but those for its health. health: the status of the latter."""

    port: int = 0
    health: int = 200
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    slow: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list["asyncio.Task[None] | None"] = field(default_factory=list)

    def times(self, prompt: str) -> int:
        return sum(1 for request in self.requests if request.body.get("prompt") == prompt)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.tasks.append(asyncio.current_task())
        try:
            while (request := await _received(reader)) is not None:
                if request.path.endswith("/models"):
                    writer.write(plain(self.health, b'{"data": []}'))
                    continue
                self.requests.append(request)
                if not await self.answer(request, reader, writer):
                    break
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()

    async def answer(
        self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """False: the connection is closed after it."""
        prompt: str = request.body.get("prompt", "chat")
        words = prompt.split()
        match words[0]:
            case "status":
                said = {"error": {"message": f"{SECRET} {KEY}", "param": words[-1]}}
                writer.write(plain(int(words[1]), json.dumps(said).encode(), f"X-Say: {SECRET}"))
            case "busy" if self.times(prompt) == 1:
                writer.write(plain(503, b"later", "Retry-After: 0"))
            case "busy-for-long":
                writer.write(plain(429, b"later", "Retry-After: 3600"))
            case "hangup" if self.times(prompt) == 1:
                return False
            case "redirect":
                writer.write(plain(302, b"", f"Location: http://127.0.0.1:{self.port}/v1/other"))
            case "garbage":
                writer.write(plain(200, f"<html>{SECRET}".encode()))
            case "shape":
                writer.write(plain(200, b'{"choices": [{"text": 3}]}'))
            case "nesting":
                writer.write(plain(200, b"[" * 100_000))
            case "zipped":
                writer.write(plain(200, b"\x1f\x8b", "Content-Encoding: gzip"))
            case "endless":
                await _endless(writer, b"x" * 65536)
            case "slow":
                self.slow.set()
                return bool(await reader.read(1))  # nothing comes until the other end closes
            case "drips":
                await _endless(writer, event({"choices": [{"text": "."}]}), pause_s=0.01)
            case "line":
                await _endless(writer, b"data: " + b"x" * 65536)
            case "cut":
                writer.write(stream_head() + chunk(event({"choices": [{"text": "Par"}]})))
                return False
            case "tells":
                first = event({"choices": [{"text": "Par"}]})
                last = event({"error": {"message": SECRET}})
                writer.write(stream_head() + chunk(first) + chunk(last) + chunk(b""))
            case "nonsense":
                writer.write(stream_head() + chunk(b"data: {]\n\n") + chunk(b""))
            case _ if request.body.get("stream"):
                writer.write(streamed(TEXT))
            case "chat":
                message = {"role": "assistant", "content": TEXT}
                writer.write(success({"choices": [{"message": message, "finish_reason": "stop"}]}))
            case _:
                writer.write(success({"choices": [{"text": TEXT, "finish_reason": "length"}]}))
        return True


def plain(status: int, content: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def success(said: dict[str, Any]) -> bytes:
    return plain(200, json.dumps({**said, "usage": USAGE}).encode(), "Set-Cookie: a=b; Path=/")


def event(said: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n" % len(content) + content + b"\r\n"


def stream_head() -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def streamed(text: str) -> bytes:
    """Word by word, with what it has cost at the end."""
    events = [event({"choices": [{"text": word}]}) for word in text.replace(" ", "| ").split("|")]
    events.append(event({"choices": [{"text": "", "finish_reason": "stop"}]}))
    events.append(event({"choices": [], "usage": USAGE}))
    events.append(b"data: [DONE]\n\n")
    return stream_head() + b"".join(map(chunk, events)) + chunk(b"")


async def _received(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().split("\r\n")
    pairs = [line.split(": ", 1) for line in lines if line]
    headers = {name.lower(): value for name, value in pairs}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split()
    return Received(method, path, headers, json.loads(content or b"{}"))


async def _endless(writer: asyncio.StreamWriter, content: bytes, pause_s: float = 0.0) -> None:
    writer.write(stream_head())
    while True:
        writer.write(chunk(content))
        await writer.drain()
        await asyncio.sleep(pause_s)


@asynccontextmanager
async def other_server() -> AsyncIterator[OtherServer]:
    """On a free port of the loopback."""
    other = OtherServer()
    listening = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    other.port = listening.sockets[0].getsockname()[1]
    try:
        yield other
    finally:
        listening.close()
        left = [task for task in other.tasks if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await listening.wait_closed()
