"""What became of a batch's lines, in two files that grow: one for answers, one for failures.

A line is in one of them, once, from the moment that `append` returns, whatever happens to the
process then; a last line that was written in part is cut off when the files are opened again.
"""

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

_encode = msgspec.json.Encoder().encode
_NUMBER_CHARS = 8
_REPLY = (
    b'{"id":"%s","custom_id":%s,"response":{"status_code":%d,"request_id":%s,"body":%s},'
    b'"error":null}\n'
)
_ERROR = b'{"id":"%s","custom_id":%s,"response":null,"error":%s}\n'

Numbered = tuple[int, bytes]
"""A line to be written, with the number of the one that it answers."""


@dataclass(frozen=True, slots=True)
class Reply:
    """To one line. status: as of HTTP; body: JSON."""

    status: int
    body: bytes

    @property
    def is_failure(self) -> bool:
        return self.status != 200


def reply_line(batch_id: str, number: int, custom_id: str, reply: Reply, request_id: str) -> bytes:
    """In OpenAI's shape."""
    return _REPLY % (
        _id(batch_id, number),
        _encode(custom_id),
        reply.status,
        _encode(request_id),
        reply.body,
    )


def error_line(batch_id: str, number: int, custom_id: str, code: str, message: str) -> bytes:
    """Of a line that was not run."""
    return _ERROR % (
        _id(batch_id, number),
        _encode(custom_id),
        _encode({"code": code, "message": message}),
    )


def request_id_of(batch_id: str, number: int) -> str:
    """The same whenever the line is run."""
    return _id(batch_id, number).decode("ascii")


def _id(batch_id: str, number: int) -> bytes:
    return f"batch_req_{batch_id.removeprefix('batch_')}{number:0{_NUMBER_CHARS}x}".encode("ascii")


class _Named(msgspec.Struct):
    id: str


_named = msgspec.json.Decoder(_Named).decode


class Growing:
    """One of the files. numbers: of the lines that are in it."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._file: BinaryIO = path.open("a+b", buffering=0)
        self.numbers = array("I")
        self._size = 0
        self._read()

    def append(self, lines: Sequence[Numbered]) -> None:
        """All of them, durably, or none. Raises OSError."""
        if not lines:
            return
        data = memoryview(b"".join(text for _, text in lines))
        size = self._size + len(data)
        try:
            self._file.truncate(self._size)  # what an attempt before had left
            while data:
                data = data[self._file.write(data) :]
            os.fdatasync(self._file.fileno())
        except OSError:
            os.truncate(self._file.fileno(), self._size)
            raise
        self._size = size
        self.numbers.extend(number for number, _ in lines)

    def close(self) -> None:
        self._file.close()

    def _read(self) -> None:
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as buffered:
            for text in buffered:
                number = _number_of(text)
                if number is None:
                    break
                self.numbers.append(number)
                self._size += len(text)
        self._file.truncate(self._size)


def _number_of(text: bytes) -> int | None:
    if not text.endswith(b"\n"):
        return None
    try:
        return int(_named(text).id[-_NUMBER_CHARS:], 16)
    except (msgspec.DecodeError, ValueError):
        return None


class Results:
    """Both files of one batch, of which there may be none yet."""

    def __init__(self, folder: Path, batch_id: str) -> None:
        """Raises OSError."""
        self.output_path, self.error_path = paths_of(folder, batch_id)
        self._output = Growing(self.output_path)
        self._errors = Growing(self.error_path)

    @property
    def numbers(self) -> set[int]:
        return {*self._output.numbers, *self._errors.numbers}

    @property
    def counts(self) -> tuple[int, int]:
        """Answers and failures."""
        return len(self._output.numbers), len(self._errors.numbers)

    def append(self, answers: list[Numbered], failures: list[Numbered]) -> None:
        """Empties the lists, each when its lines are durable. Raises OSError."""
        for growing, lines in ((self._output, answers), (self._errors, failures)):
            growing.append(lines)
            lines.clear()

    def close(self) -> None:
        """Files without a line are deleted."""
        for growing, path in ((self._output, self.output_path), (self._errors, self.error_path)):
            growing.close()
            if not growing.numbers:
                path.unlink(missing_ok=True)


def paths_of(folder: Path, batch_id: str) -> tuple[Path, Path]:
    return folder / f"{batch_id}.output", folder / f"{batch_id}.errors"
