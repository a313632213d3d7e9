"""A worker process with nothing but its socket: no handle, no event loop."""

import socket
import subprocess
from contextlib import contextmanager

from app.workers.messages import (
    AskThreads,
    GrantThreads,
    Load,
    Submit,
    WireItem,
    decode_to_server,
    encode,
)
from app.workers.wire import FrameReader
from tests.process.workers import COMMAND, LOAD_S, VERSION


class RawWorker:
    """The server's end of the socket, with blocking calls."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self.process = process
        self.connection = connection
        self._reader = FrameReader()

    def send(self, message) -> None:
        frame = encode(message)
        self.connection.sendall(len(frame).to_bytes(4, "big") + frame)

    def submit(self, text: str) -> None:
        self.send(Submit([WireItem(1, VERSION, text, {"truncate": False}, 30_000)]))

    def until(self, wanted: type):
        """The next message of that kind; threads are granted on the way."""
        while data := self.connection.recv(65536):
            for frame in self._reader.feed(data):
                message = decode_to_server(frame)
                if isinstance(message, AskThreads):
                    self.send(GrantThreads(message.threads))
                if isinstance(message, wanted):
                    return message
        raise AssertionError(f"the worker closed the connection before {wanted.__name__}")


@contextmanager
def raw_worker(load: Load):
    ours, theirs = socket.socketpair()
    ours.settimeout(LOAD_S)
    with ours:
        with theirs:
            fd = theirs.fileno()
            process = subprocess.Popen([*COMMAND, str(fd)], pass_fds=[fd])
        with process:
            try:
                worker = RawWorker(process, ours)
                worker.send(load)
                yield worker
            finally:
                process.kill()
