"""What files and batches are, and the way of a batch.

validating -> in_progress -> finalizing -> completed
    |  |           |  '-> expired          its time has passed; what was done is kept
    |  |           '-> cancelling -> cancelled                             likewise
    |  '-> cancelling
    '-> failed                             its file is wrong; nothing was run
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.core.errors import CallerFilesFull


class BatchStatus(StrEnum):
    """Stored and shown as text: OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        return self in OPEN


OPEN = (
    BatchStatus.VALIDATING,
    BatchStatus.IN_PROGRESS,
    BatchStatus.FINALIZING,
    BatchStatus.CANCELLING,
)
CANCELLABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)


class Purpose(StrEnum):
    """What a file is for."""

    BATCH = "batch"  #: uploaded: requests
    OUTPUT = "batch_output"  #: ours: what became of them


def new_file_id() -> str:
    """`file-` and 32 hexadecimal digits that nobody can guess; later ones are greater."""
    return f"file-{_time_ordered()}"


def new_batch_id() -> str:
    return f"batch_{_time_ordered()}"


def _time_ordered() -> str:
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file. place: the folder that has its content, see contents.py. size: in
    bytes. Times are Unix seconds."""

    id: str
    caller: str
    purpose: Purpose
    filename: str
    size: int
    sha256: bytes
    created_at: float
    expires_at: float
    place: str


def check_room(kept: int, more: int, most: int) -> None:
    """Whether a caller whose files have `kept` bytes may add to them. Raises CallerFilesFull."""
    if kept + more > most:
        raise CallerFilesFull(
            f"Your files have {kept} bytes; with these {more} they would have more than the {most} "
            "that are kept for one caller (MAX_CALLER_FILES_BYTES). Delete some, outputs of "
            "batches among them, or let them expire."
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a batch failed. line: of the input file, from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Of requests: all, those answered with status 200, and those answered otherwise."""

    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. keep_s: how long its output files are kept; output_id, error_id: chosen when its
    lines have ended, of files that there may not be; ended_at: in whichever way; models: that its
    caller might ask when it was made, None: all."""

    caller: str
    endpoint: str
    input_file_id: str
    completion_window: str
    keep_s: float
    created_at: float
    expires_at: float
    place: str
    metadata: Mapping[str, str] | None = None
    models: frozenset[str] | None = None
    status: BatchStatus = BatchStatus.VALIDATING
    counts: Counts = Counts()
    problems: tuple[Problem, ...] = ()
    output_id: str | None = None
    error_id: str | None = None
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    cancelling_at: float | None = None
    ended_at: float | None = None
    id: str = field(default_factory=new_batch_id)
