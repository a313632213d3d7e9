"""Fake runtimes, each named after its sin. They run in real worker processes.

All but the sins of loading behave until a text contains the word `sin`, so that one test sees the
worker before, during and after.
"""

import ctypes
import json
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.core.inference import Generated, Sampling, TokenIds, Vectors, Written
from app.runtimes.base import StepOutcome, StreamPlan

SIN = "sin"
LONG, LONG_S = "long", 5.0
NO_FRAME = b"\xff\xff\xff\xff no frame begins like this"


class Characters:
    """A tokenizer whose tokens are characters, so that a runtime can read its input."""

    max_tokens = 64

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(character) for character in text] for text in texts]


def text_of(row: TokenIds) -> str:
    return "".join(map(chr, row))


class Wellbehaved:
    """Answers with the number of tokens and their sum."""

    def __init__(self, files: Mapping[str, str], *, plan: StreamPlan, **options: str) -> None:
        self.tokenizer = Characters()
        self.plan = plan
        self.options = options

    def group_of(self, settings: Any) -> Hashable:
        return None

    def probe(self, rows: Sequence[TokenIds]) -> None:
        self.run(rows)

    def run(self, rows: Sequence[TokenIds], settings: Sequence[Any] = ()) -> Vectors:
        if any(SIN in text_of(row) for row in rows):
            self.sin()
        return np.array([[len(row), sum(row)] for row in rows], dtype=np.float32)

    def sin(self) -> None:
        """Whatever the subclass is named after."""


class RaisesInLoad(Wellbehaved):
    def __init__(self, *arguments: object, **options: object) -> None:
        raise OSError("weights are truncated")


class ExitsInLoad(Wellbehaved):
    def __init__(self, *arguments: object, **options: object) -> None:
        os._exit(3)


class HangsInLoad(Wellbehaved):
    def __init__(self, *arguments: object, **options: object) -> None:
        signal.pause()


class HangsInSecondLoad(Wellbehaved):
    """Well the first time and from the third on: a count is kept in a file."""

    def __init__(self, *arguments: Any, once: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        with open(once, "a", encoding="ascii") as count:
            count.write("x")
        if Path(once).read_text() == "xx":
            signal.pause()


class KilledInRun(Wellbehaved):  # what the kernel does when memory runs out
    def sin(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class SegfaultsInRun(Wellbehaved):
    def sin(self) -> None:
        ctypes.string_at(0)


class ExitsInRun(Wellbehaved):
    def sin(self) -> None:
        os._exit(7)


class RaisesInRun(Wellbehaved):
    def sin(self) -> None:
        raise RuntimeError("a shape does not fit")


class HangsInRun(Wellbehaved):
    def sin(self) -> None:
        time.sleep(3600)


class HoldsTheInterpreter(Wellbehaved):
    """Waits in a library that does not let others run meanwhile: no thread can say anything."""

    def sin(self) -> None:
        ctypes.PyDLL(None).sleep(3600)


class LosesARow(Wellbehaved):
    def run(self, rows: Sequence[TokenIds], settings: Sequence[Any] = ()) -> Vectors:
        vectors = super().run(rows)
        return vectors[1:] if any(SIN in text_of(row) for row in rows) else vectors


class WritesGarbage(Wellbehaved):
    """A native library that writes into a file descriptor that is not its own."""

    def sin(self) -> None:
        os.write(int(sys.argv[1]), NO_FRAME)
        time.sleep(3600)


class SpeaksNonsense(Wellbehaved):
    """A frame as it should be, but with no message of ours inside."""

    def sin(self) -> None:
        os.write(int(sys.argv[1]), b"\x00\x00\x00\x02\x93\x01")
        time.sleep(3600)


class IgnoresSigterm(Wellbehaved):
    """A library that swallows the signal and then never gives the interpreter back."""

    def sin(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(3600)


class StopsInRun(Wellbehaved):
    """What a debugger or an operator does: the process is there, and does nothing at all."""

    def sin(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


class AllocatesInRun(Wellbehaved):
    """Asks for more memory than any machine has."""

    def sin(self) -> None:
        np.ones(2**40, dtype=np.float64)


class FillsSharedMemory(Wellbehaved):
    """Holds 400 MB in a way that no limit on allocations sees."""

    def sin(self) -> None:
        shared = mmap.mmap(-1, 400 * 2**20)
        shared[:: mmap.PAGESIZE] = b"x" * (len(shared) // mmap.PAGESIZE)
        time.sleep(3600)


class ChatsOnStdout(Wellbehaved):
    def sin(self) -> None:
        os.write(1, b"progress 100%\r" * 200_000)


class RecordsItsRuns(Wellbehaved):
    """Writes when each run began and ended. One short line is one write: lines never mix."""

    def run(self, rows: Sequence[TokenIds], settings: Sequence[Any] = ()) -> Vectors:
        self._note("start")
        time.sleep(float(self.options["run_s"]))
        vectors = super().run(rows)
        self._note("end")
        return vectors

    def _note(self, what: str) -> None:
        line = {
            "worker": self.options["name"],
            "pid": os.getpid(),
            "what": what,
            "at": time.monotonic(),
            "threads": self.plan.threads,
            "stream": threading.get_ident(),
        }
        log = os.open(self.options["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, json.dumps(line).encode() + b"\n")
        os.close(log)


class CountsToThree:
    """Generates three tokens for each prompt, one per step."""

    max_running_tokens = 1000

    def __init__(
        self, files: Mapping[str, str], *, plan: StreamPlan, prepared: Path | None = None
    ) -> None:
        self.tokenizer = Characters()
        self.threads = plan.threads
        self._prompts: dict[int, str] = {}
        self._made: dict[int, list[int]] = {}

    def decode(self, token_ids: Sequence[int]) -> str:
        return text_of(token_ids)

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        self._made[sequence_id] = []
        self._prompts[sequence_id] = text_of(prompt)

    def cancel(self, sequence_id: int) -> None:
        del self._made[sequence_id]

    def step(self) -> StepOutcome:
        if any(SIN in self._prompts[sequence_id] for sequence_id in self._made):
            self.sin()
        written = {}
        for sequence_id, made in self._made.items():
            made.append(ord("123"[len(made)]))
            written[sequence_id] = [Written((made[-1],))]
        ended = [sequence_id for sequence_id, made in self._made.items() if len(made) == 3]
        return StepOutcome(
            {i: (Generated(tuple(self._made.pop(i)), "length"),) for i in ended},
            len(self._made),
            {},
            written,
        )

    def sin(self) -> None:
        """Whatever the subclass is named after."""


class KilledInStep(CountsToThree):
    def sin(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class KilledInThirdStep(CountsToThree):
    """When the sin is two tokens long."""

    def sin(self) -> None:
        if any(len(made) == 2 for made in self._made.values()):
            os.kill(os.getpid(), signal.SIGKILL)


class CountsSlowly(CountsToThree):
    """The sin takes a while over each step, and its text has no end."""

    def sin(self) -> None:
        time.sleep(0.05)
        for made in self._made.values():
            del made[1:]


class HangsInStep(CountsToThree):
    def sin(self) -> None:
        time.sleep(3600)


class TakesLongInStep(CountsToThree):
    """A long prompt on few cores: computes for a while, and the loop cannot say so."""

    def step(self) -> StepOutcome:
        new = [sequence_id for sequence_id, made in self._made.items() if not made]
        if any(LONG in self._prompts[sequence_id] for sequence_id in new):
            ends = time.monotonic() + LONG_S
            while time.monotonic() < ends:
                pass
        return super().step()


class RaisesInStep(CountsToThree):
    def sin(self) -> None:
        raise RuntimeError("the cache is corrupt")
