"""Runs errands: jobs in a process of their own, with news on the way, ended when the server stops.

`app/core/errands.py` is the child's side and says what crosses.
"""

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any

import msgspec

from app.core.errands import Finished, Message, News, Refused
from app.core.errors import CannotLoad, UnavailableForNow, from_code

LAST_WORDS = 400  # characters of standard error that are worth quoting
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class Errands:
    """`run` blocks: call it from a thread. `stop` may be called from anywhere."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """End running errands, and refuse further ones."""
        self._stopped.set()
        with self._lock:
            for child in self._running:
                child.kill()

    def run(
        self,
        module: str,
        job: msgspec.Struct,
        tell: Callable[[News], None],
        environment: Mapping[str, str],
    ) -> Any:
        """What `python -m module` made of the job, as plain data.

        Raises what the child refused with, or CannotLoad when it ended without a word.
        """
        with _scratch_file() as said:
            child = self._start(module, job, environment, said)
            try:
                last = _follow(child, tell)
            finally:
                child.kill()
                child.wait()
                if child.stdout is not None:
                    child.stdout.close()
                with self._lock:
                    self._running.discard(child)
            if self.is_stopped:
                raise CannotLoad("the server is stopping")
            match last:
                case Finished(result):
                    return result
                case Refused(code, message):
                    raise from_code(code, message)
                case _:
                    raise CannotLoad(_silent_end(child.returncode, said))

    def _start(
        self, module: str, job: msgspec.Struct, environment: Mapping[str, str], said: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self.is_stopped:
                raise CannotLoad("the server is stopping")
            try:
                child = subprocess.Popen(
                    [sys.executable, "-m", module],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env=dict(environment),
                    start_new_session=True,  # signals to the group are the server's to handle
                )
            except OSError as error:
                raise UnavailableForNow(f"no process could be started: {error}") from error
            self._running.add(child)
        if child.stdin is not None:
            try:
                child.stdin.write(msgspec.json.encode(job))
                child.stdin.close()
            except BrokenPipeError:  # it has ended already; its last words say why
                pass
        return child


def _scratch_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise CannotLoad(f"no room for a temporary file: {error}") from error


def _follow(child: subprocess.Popen[bytes], tell: Callable[[News], None]) -> Message | None:
    """The last message, once the child has closed its output."""
    last: Message | None = None
    for line in child.stdout or ():
        try:
            last = _decoder.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(last, News):
            tell(last)
    child.wait()
    return last


def _silent_end(status: int, said: IO[bytes]) -> str:
    if status == -signal.SIGKILL:
        return "the process was killed, most likely because memory ran out"
    said.seek(0)
    words = said.read().decode("utf-8", "replace").strip()[-LAST_WORDS:]
    return f"the process ended with status {status}" + (f": {words}" if words else "")
