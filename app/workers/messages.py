"""Everything that crosses between the server and a worker, as one closed set.

Encoded as msgpack with a tag per message (msgspec); errors travel as code and text. Times are
relative (milliseconds left), because the two halves need not share a clock.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field, msgpack

from app.core.checkpoint import Kind
from app.core.errors import InvalidRequest
from app.core.types import Piece, Priority


class HostedVersion(Struct, frozen=True):
    """A version that the worker answers for. files: paths by role, for the task."""

    key: str
    task: str
    options: dict[str, Any]
    files: dict[str, str]


# server -> worker


class Load(Struct, frozen=True, tag=True):
    """First message: what to load.

    calibration_path: where the result is kept between starts; empty where nothing is calibrated.
    prepared_path: folder for what the runtime makes of the files, to start faster the next time.
    memory_limit_bytes: 0: any. nice: how much of its priority the process leaves to others.
    """

    artefact: str
    files: dict[str, str]
    runtime: str
    kind: Kind
    options: dict[str, Any]
    versions: list[HostedVersion]
    cpu_threads: int
    max_batch_size: int
    batch_timeout_ms: float
    calibration_path: str
    prepared_path: str
    log_format: str
    log_level: str
    memory_limit_bytes: int = 0
    nice: int = 0


class WireItem(Struct, frozen=True):
    """One input for one version: text, or tensors by `pack_inputs`.

    timeout_ms: time left until its deadline. request_id: for the worker's log, nothing else.
    priority and caller: for its turn. stream: its text is told while it is written.
    """

    id: int
    version: str
    text: str
    parameters: dict[str, Any]
    timeout_ms: float
    request_id: str = ""
    inputs: bytes | None = None
    priority: Priority = Priority.NORMAL
    caller: str = ""
    stream: bool = False


class Submit(Struct, frozen=True, tag=True):
    items: list[WireItem]


class Cancel(Struct, frozen=True, tag=True):
    ids: list[int]


class GrantThreads(Struct, frozen=True, tag=True):
    threads: int


class RecallThreads(Struct, frozen=True, tag=True):
    pass


class Stop(Struct, frozen=True, tag=True):
    """Exit now; the server sends it when nothing is owed any more."""


ToWorker = Load | Submit | Cancel | GrantThreads | RecallThreads | Stop


# worker -> server


class Loaded(Struct, frozen=True, tag=True):
    """The worker takes items. calibration: what was chosen and predicted, for people.

    max_tokens: None where tokens are not what it takes. refused: versions whose task could not be
    built, with the reason; the others are served. signature: names, types and shapes of a model
    that takes tensors; empty for any other. outage: as in `Health`.
    """

    load_s: float
    max_tokens: int | None
    calibration: dict[str, Any]
    refused: dict[str, str]
    signature: dict[str, Any] = field(default_factory=dict)
    outage: str = ""


class LoadFailed(Struct, frozen=True, tag=True):
    code: str
    message: str


class ItemDone(Struct, frozen=True, tag=True):
    """queue_ms: from arrival to the first forward pass; compute_ms: from there to the last."""

    id: int
    value: Any
    metadata: dict[str, Any]
    input_tokens: int
    output_tokens: int
    queue_ms: float
    compute_ms: float


class ItemFailed(Struct, frozen=True, tag=True):
    id: int
    code: str
    message: str


class Results(Struct, frozen=True, tag=True):
    items: list[ItemDone | ItemFailed]


class Used(Struct, frozen=True, array_like=True):
    """Tokens of an item that is streamed, so far: of its prompt, once it is being read, and all
    that were written, also those whose text has to wait."""

    id: int
    input_tokens: int
    output_tokens: int


class Pieces(Struct, frozen=True, tag=True):
    """What a step has added to texts that are streamed, by item. All pieces of an item come before
    its result. used: of each item that the step went on with."""

    items: list[tuple[int, Piece]]
    used: list[Used] = field(default_factory=list)


class AskThreads(Struct, frozen=True, tag=True):
    threads: int


class ReturnThreads(Struct, frozen=True, tag=True):
    threads: int


class Started(Struct, frozen=True, tag=True):
    """Sent before a run begins, so that the server knows who was inside if the process dies in it.

    predicted_ms: how long it should take; 0 where that is not known. Generating: one per sequence,
    when it joins.
    """

    run: int
    items: list[int]
    predicted_ms: float


class Ended(Struct, frozen=True, tag=True):
    """The run is over, however it went."""

    run: int


class Health(Struct, frozen=True, tag=True):
    """Whether the server that a worker asks serves now. outage: why it does not; empty: it does."""

    outage: str


class BatchRan(Struct, frozen=True):
    """One forward pass. predicted_ms: what the cost model said; 0 where there is none. is_pressed:
    it was not the best one, for the sake of rows that had waited for most of their time."""

    rows: int
    real_tokens: int
    padded_tokens: int
    ms: float
    predicted_ms: float
    is_pressed: bool = False


class Beat(Struct, frozen=True, tag=True):
    """Sent once a second from the worker's loop: it lives, and what it did since the last.

    backlog_ms: predicted time until all it holds is done; None where that cannot be known.
    """

    batches: list[BatchRan]
    waiting: int
    running: int
    resident_bytes: int
    backlog_ms: float | None = None


ToServer = (
    Loaded
    | LoadFailed
    | Results
    | Pieces
    | AskThreads
    | ReturnThreads
    | Started
    | Ended
    | Health
    | Beat
)

_encoder = msgpack.Encoder()
_to_worker: msgpack.Decoder[ToWorker] = msgpack.Decoder(ToWorker)
_to_server: msgpack.Decoder[ToServer] = msgpack.Decoder(ToServer)


def pack_inputs(inputs: Mapping[str, Any]) -> bytes:
    """A caller's tensors, for the worker's preparing thread alone to take apart: no list of his
    is decoded where it would hold up, or break, the reading of messages.

    Raises InvalidRequest for what cannot cross.
    """
    try:
        return _encoder.encode(inputs)
    except (OverflowError, RecursionError) as error:
        raise InvalidRequest(
            "inputs is nested too deeply"
            if isinstance(error, RecursionError)
            else "inputs holds an integer beyond 64 bits"
        ) from None


def unpack_inputs(packed: bytes) -> dict[str, Any]:
    """Raises InvalidRequest for lists that are nested too deeply to be read."""
    try:
        inputs: dict[str, Any] = msgpack.decode(packed)
    except RecursionError:
        raise InvalidRequest("inputs is nested too deeply") from None
    return inputs


def pack_logprobs(entries: list[dict[str, Any]]) -> bytes:
    """An entry per token, as `metadata.logprobs` has them, for whoever shows them to take apart:
    what waits for a slow reader has a size that can be counted."""
    return _encoder.encode(entries)


def unpack_logprobs(packed: bytes) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = msgpack.decode(packed)
    return entries


def encode(message: ToWorker | ToServer) -> bytes:
    return _encoder.encode(message)


def decode_to_worker(data: bytes) -> ToWorker:
    """Raises msgspec.DecodeError for anything that is not one of ours."""
    return _to_worker.decode(data)


def decode_to_server(data: bytes) -> ToServer:
    """Raises msgspec.DecodeError for anything that is not one of ours."""
    return _to_server.decode(data)
