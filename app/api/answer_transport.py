"""How an answer is written: in as few pieces as it can be, and closed the gentle way."""

import asyncio
from typing import Protocol


class Connection(Protocol):
    """What an answer needs of the connection that it goes out on."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    def write_counted(self, data: bytes) -> None: ...

    def close_gently(self) -> None: ...

    def answering(self, status: bytes) -> None: ...


class AnswerTransport:
    """What a request's cycle may do with the connection.

    What is written first, the head of an answer, waits for the body that mostly comes in the same
    turn of the loop: two calls of the system cost as much as all of a short answer's encoding.
    """

    def __init__(self, protocol: Connection) -> None:
        self._protocol = protocol
        self._head: bytes | None = None
        self._has_written = False
        self.is_closing = protocol.transport.is_closing

    def write(self, data: bytes) -> None:
        if self._has_written:
            head, self._head = self._head or b"", None
            self._protocol.write_counted(head + data)
        else:
            self._has_written = True
            self._head = data
            self._protocol.answering(data[9:12])
            self._protocol.loop.call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        self._protocol.close_gently()

    def _flush(self) -> None:
        if self._head is not None and not self.is_closing():
            self._protocol.write_counted(self._head)
        self._head = None
