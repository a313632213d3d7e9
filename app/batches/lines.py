"""Lines of a batch's file: read in slices, each line bounded, and checked one by one. No clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Annotated, BinaryIO

import msgspec

from app.batches.status import Problem

MOST_PROBLEMS = 100  # that are told
MAX_ID_CHARS = 512
SLICE_LINES, SLICE_BYTES = 256, 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """number: from 1. text: None where it is longer than lines may be."""

    number: int
    text: bytes | None


class LineReader:
    """The lines of a file that are not blank. Holds a slice of them, whatever their lengths."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._number = 0

    def slice(self) -> list[Line]:
        """The next ones; none at the end. Raises OSError."""
        lines: list[Line] = []
        size = 0
        while len(lines) < SLICE_LINES and size < SLICE_BYTES:
            text = self._file.readline(self._max_bytes + 2)
            if not text:
                break
            self._number += 1
            if self._number == 1:
                text = text.removeprefix(_BOM)
            is_whole = text.endswith(b"\n") or len(text) <= self._max_bytes
            size += len(text)
            if not is_whole:
                self._skip()
                lines.append(Line(self._number, None))
            elif not text.isspace():
                lines.append(Line(self._number, text))
        return lines

    def _skip(self) -> None:
        while (rest := self._file.readline(SLICE_BYTES)) and not rest.endswith(b"\n"):
            pass


class _Body(msgspec.Struct):
    model: str = ""


class _Head(msgspec.Struct):
    """What is checked of a line before it is run."""

    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]
    method: str
    url: str
    body: _Body


class Task(msgspec.Struct):
    """What is run of a line."""

    custom_id: str
    body: msgspec.Raw


_head = msgspec.json.Decoder(_Head).decode
_task = msgspec.json.Decoder(Task).decode


def task_of(text: bytes) -> Task:
    """Of a line that was checked. Raises msgspec.DecodeError."""
    return _task(text)


ModelProblem = Callable[[str], Problem | None]


@dataclass(slots=True)
class Checker:
    """Finds what is wrong with lines. model_problem: of a name, which a body may have left out."""

    endpoint: str
    max_lines: int
    max_bytes: int
    model_problem: ModelProblem
    total: int = 0
    problems: list[Problem] = field(default_factory=list)
    _ids: set[bytes] = field(default_factory=set)
    _models: set[str] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        """Whether there is no use in more lines."""
        return self.total > self.max_lines or len(self.problems) >= MOST_PROBLEMS

    def check(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self.total += 1
            if self.total > self.max_lines:
                message = f"the file has more than {self.max_lines} requests (MAX_BATCH_LINES)"
                self.problems.append(Problem("too_many_tasks", message, line.number))
            elif (problem := self._problem(line)) is not None:
                self.problems.append(problem)
            if self.is_over:
                return

    def finish(self) -> None:
        """No more lines come."""
        if not self.total:
            self.problems.append(Problem("empty_file", "the file has no requests"))

    def _problem(self, line: Line) -> Problem | None:
        at = line.number
        if line.text is None:
            message = f"the line is longer than {self.max_bytes} bytes (MAX_BODY_BYTES)"
            return Problem("line_too_long", message, at)
        try:
            line.text.decode()
            head = _head(line.text)
        except UnicodeDecodeError as error:
            return Problem("invalid_json_line", f"not valid UTF-8: {error.reason}", at)
        except msgspec.ValidationError as error:
            return Problem("invalid_request", *_in_words(error, at))
        except (msgspec.DecodeError, RecursionError) as error:
            return Problem("invalid_json_line", f"not valid JSON: {error}", at)
        return self._problem_of(head, at)

    def _problem_of(self, head: _Head, at: int) -> Problem | None:
        if head.method != "POST":
            return Problem("invalid_request", "method must be POST", at, "method")
        if head.url != self.endpoint:
            message = f"url must be the batch's endpoint, {self.endpoint}"
            return Problem("url_mismatch", message, at, "url")
        if self._is_double(head.custom_id):
            message = "another line has the same custom_id; each needs its own"
            return Problem("duplicate_custom_id", message, at, "custom_id")
        model = head.body.model
        if model in self._models:
            return None
        problem = self.model_problem(model)
        if problem is None:
            self._models.add(model)
            return None
        return Problem(problem.code, problem.message, at, "body.model")

    def _is_double(self, custom_id: str) -> bool:
        """By digests, which are short whatever the ids."""
        digest = blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        known = len(self._ids)
        self._ids.add(digest)
        return len(self._ids) == known


def _in_words(error: msgspec.ValidationError, at: int) -> tuple[str, int, str | None]:
    """Message, line and field: `Expected `str`, got `int` - at `$.custom_id``."""
    message, _, path = str(error).partition(" - at `$")
    return message, at, path.strip("`.") or None
