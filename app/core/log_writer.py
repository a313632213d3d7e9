"""Log lines to a descriptor, without ever waiting for whoever reads it.

A line is written by its caller where that is possible at once. Where it is not, because the reader
is slow or stopped, it is kept, and one thread writes what is kept as soon as there is room. What
exceeds the bound is dropped and counted, and a line says so later.
"""

import contextlib
import io
import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable

MOST_KEPT_BYTES = 4 * 2**20  # about 15,000 lines
FLUSH_S = 1.0  # what an ending process waits for a slow reader

Write = Callable[[bytes], int]


class LogWriter:
    """`write` from any thread. on_dropped: is told how many lines nobody will see."""

    def __init__(
        self, descriptor: int, on_dropped: Callable[[int], None], most_bytes: int = MOST_KEPT_BYTES
    ) -> None:
        self._on_dropped = on_dropped
        self._most_bytes = most_bytes
        self._watched, self._write_now, self._write_later = _ways(descriptor)
        self._lock = threading.RLock()  # a destructor may write in the middle of a write
        self._has_lines = threading.Condition(self._lock)
        self._is_empty = threading.Condition(self._lock)
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def write(self, line: bytes) -> None:
        """One line with its end; or more."""
        with self._lock:
            rest = line if self._kept else self._try(line)
            if rest:
                self._keep(rest, is_begun=len(rest) < len(line))

    def close(self) -> None:
        """Wait for the reader, but not for long; what is written later is written or dropped."""
        with self._lock:
            self._is_closed = True
            self._is_empty.wait_for(lambda: not self._kept, FLUSH_S)

    def _try(self, line: bytes) -> bytes:
        """What could not be written."""
        if self._write_now is None:
            return line
        try:
            return line[self._write_now(line) :]
        except BlockingIOError:
            return line
        except OSError:  # nobody reads any more
            return b""

    def _keep(self, line: bytes, *, is_begun: bool) -> None:
        if self._kept_bytes + len(line) > self._most_bytes and not is_begun:
            self._dropped += 1
            return
        self._kept.append(line)
        self._kept_bytes += len(line)
        if self._thread is None:
            if self._is_closed:
                return  # an ending interpreter starts no thread
            self._thread = threading.Thread(target=self._write_kept, name="log", daemon=True)
            self._thread.start()
        self._has_lines.notify()

    def _write_kept(self) -> None:
        while True:
            with self._lock:
                self._has_lines.wait_for(lambda: self._kept)
                line = self._kept[0]
            try:
                if self._watched is not None:
                    self._watched.poll()
                rest = line[self._write_later(line) :]
            except BlockingIOError:  # others write as well
                continue
            except OSError:
                rest = b""
            dropped = self._note_written(line, rest)
            if dropped:
                self._on_dropped(dropped)

    def _note_written(self, line: bytes, rest: bytes) -> int:
        """How many lines have been dropped, where nothing is kept any more."""
        with self._lock:
            self._kept_bytes -= len(line) - len(rest)
            if rest:
                self._kept[0] = rest
                return 0
            self._kept.popleft()
            if self._kept:
                return 0
            dropped, self._dropped = self._dropped, 0
            self._is_empty.notify_all()
            return dropped


def _ways(descriptor: int) -> tuple["select.poll | None", Write | None, Write]:
    """How to wait for room, how to write without waiting, and how to write in the thread.

    What does not wait must not change how others write to the same terminal or pipe: a flag on a
    descriptor is shared by all processes that have it. So a description of our own is opened. Where
    that is not allowed, nothing is written without waiting, and all is left to the thread.
    """

    def waiting(line: bytes) -> int:
        return os.write(descriptor, line)

    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        ours = socket.socket(fileno=os.dup(descriptor))

        def send(line: bytes) -> int:
            return ours.send(line, socket.MSG_DONTWAIT)

        return _poll(descriptor), send, send
    if not stat.S_ISFIFO(mode) and not os.isatty(descriptor):
        return None, waiting, waiting  # a file takes what it is given
    with contextlib.suppress(OSError):
        private = os.open(
            f"/proc/self/fd/{descriptor}",
            os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
        )

        def write(line: bytes) -> int:
            return os.write(private, line)

        return _poll(private), write, write
    return None, None, waiting


def _poll(descriptor: int) -> "select.poll":
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll


class LogStream(io.TextIOBase):
    """A text stream over a LogWriter, for whatever libraries and the interpreter have to say."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, writer: LogWriter, like: io.TextIOBase) -> None:
        self._writer = writer
        self._like = like
        self._lock = threading.RLock()
        self._begun = ""

    def write(self, text: str) -> int:
        with self._lock:
            whole, end, self._begun = (self._begun + text).rpartition("\n")
            if end:
                self._send(whole + end)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            begun, self._begun = self._begun, ""
            if begun:
                self._send(begun)

    def _send(self, text: str) -> None:
        self._writer.write(text.encode(self.encoding, self.errors))

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._like.isatty()

    def fileno(self) -> int:
        return self._like.fileno()
