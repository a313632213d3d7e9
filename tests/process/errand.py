"""`python -m tests.process.errand`: an errand that does what its job says, sins included."""

import ctypes
import os
import signal
import sys
import time
from typing import Any

import msgspec

from app.core.errands import News, Tell, serve_errand
from app.core.errors import CannotLoad


class Job(msgspec.Struct):
    """do: what to do; each is a function below."""

    do: str


def answers(tell: Tell) -> Any:
    tell(News("counting", 1, 2))
    tell(News("counting", 2, 2))
    return {"answer": 42}


def chats(tell: Tell) -> Any:
    print("progress: 100 %")
    os.write(1, b'{"type":"Finished","result":"a library\'s"}\n')
    return "ours"


def refuses(tell: Tell) -> Any:
    raise CannotLoad("weights.bin is too short")


def breaks(tell: Tell) -> Any:
    raise KeyError("hidden_size")


def runs_out_of_memory(tell: Tell) -> Any:
    raise MemoryError


def is_killed(tell: Tell) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def segfaults(tell: Tell) -> Any:
    print("about to read address 0", file=sys.stderr, flush=True)
    ctypes.string_at(0)


def hangs(tell: Tell) -> Any:
    tell(News(str(os.getpid())))
    time.sleep(3600)


def work(job: Job, tell: Tell) -> Any:
    return globals()[job.do](tell)


if __name__ == "__main__":
    sys.exit(serve_errand(Job, work))
