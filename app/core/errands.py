"""The child's side of an errand: one job in, news out, one result or one error at the end.

An errand is work that must not share a process with the server, because it loads large libraries,
uses memory that has to be given back, or must be ended at any moment: downloads and preparations.
`app/models/errands.py` is the other side. A job is JSON on standard input; every line on standard
output is one JSON message; whatever libraries print goes to standard error.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from app.core.errors import ServingError


class News(msgspec.Struct, frozen=True, tag=True):
    """How far it is. total is 0 where it is unknown; unit: `bytes` or `steps`."""

    what: str
    done: int = 0
    total: int = 0
    unit: str = "steps"


class Finished(msgspec.Struct, frozen=True, tag=True):
    result: Any


class Refused(msgspec.Struct, frozen=True, tag=True):
    """An error by its code (app/core/errors.py) and text."""

    code: str
    message: str


PARENT_CHECK_S = 1.0

Message = News | Finished | Refused
Tell = Callable[[News], None]
_Job = TypeVar("_Job")


def _end_with(parent: int) -> None:
    """A killed server is not there to end its errands, and the next one would start them again."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


def serve_errand(job_type: type[_Job], work: Callable[[_Job, Tell], Any]) -> int:
    """Read the job, do it, report. The exit status: 0 when finished, 1 when refused.

    `work` returns plain JSON data or a Struct. A ServingError travels as code and message; any
    other exception is written to standard error in full and travels as its type's name.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not look like a message

    def say(message: Message) -> None:
        out.write(msgspec.json.encode(message) + b"\n")
        out.flush()

    try:
        job = msgspec.json.decode(sys.stdin.buffer.read(), type=job_type)
        say(Finished(msgspec.to_builtins(work(job, say))))
        return 0
    except ServingError as refused:
        say(Refused(refused.code, str(refused)))
    except MemoryError:
        say(Refused("cannot_load", "memory ran out"))
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        say(Refused("cannot_load", f"{type(error).__name__}: {error}"))
    return 1
