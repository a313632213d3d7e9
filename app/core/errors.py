"""Every way in which serving can fail, as one tree.

The type says whose fault it is; `code` is what callers see; `app/api/errors.py` maps types to
statuses. A class docstring is the default message. Errors cross a process as code and text.
"""

from collections.abc import Iterator


class ServingError(Exception):
    """The server failed for a reason it does not understand."""

    code = "internal"

    def __init__(self, message: str | None = None, *, retry_after_s: float | None = None) -> None:
        super().__init__(message or self.__doc__)
        self.retry_after_s = retry_after_s


class InvariantBroken(ServingError):
    """The server broke one of its own rules."""


class CallerError(ServingError):
    """The request cannot be served as it is."""

    code = "bad_request"


class InvalidJson(CallerError):
    """The body is not valid JSON."""

    code = "invalid_json"


class InvalidRequest(CallerError):
    """A field is wrong, missing, unknown or out of bounds."""

    code = "invalid_request"


class BodyTooLarge(CallerError):
    """The body is larger than the server accepts."""

    code = "body_too_large"


class CallerFilesFull(BodyTooLarge):
    """Your files would have more bytes than the server keeps for one caller; delete some."""

    code = "caller_files_full"


class InputTooLong(CallerError):
    """The input is longer than the model takes."""

    code = "input_too_long"


class UnsupportedMediaType(CallerError):
    """The body is not declared as JSON."""

    code = "unsupported_media_type"


class ModelNotFound(CallerError):
    """No such model or version."""

    code = "model_not_found"


class Forbidden(CallerError):
    """The server does not allow this."""

    code = "forbidden"


class Unauthenticated(CallerError):
    """Send a valid API key, as `Authorization: Bearer` or `X-API-Key`."""

    code = "unauthenticated"


class KeyNotFound(CallerError):
    """No such API key."""

    code = "key_not_found"


class NameTaken(CallerError):
    """There is something of this name."""

    code = "name_taken"


class Superseded(CallerError):
    """A later order for the same version has undone this one."""

    code = "superseded"


class JobNotFound(CallerError):
    """You have no such job; it may have been deleted since it ended."""

    code = "job_not_found"


class StoredFileNotFound(CallerError):
    """You have no such file; it may have expired or been deleted."""

    code = "file_not_found"


class BatchNotFound(CallerError):
    """You have no such batch."""

    code = "batch_not_found"


class FileInUse(CallerError):
    """A batch that has not ended reads the file; cancel the batch, or wait for its end."""

    code = "file_in_use"


class NotCancellable(CallerError):
    """The batch is past the point where it could be cancelled."""

    code = "batch_not_cancellable"


class IdempotencyKeyReused(CallerError):
    """The Idempotency-Key came before with another request; send a new one."""

    code = "idempotency_key_reused"


class StillRunning(CallerError):
    """The first request with this Idempotency-Key is still being answered; ask again later."""

    code = "still_running"


class TryLater(ServingError):
    """The request was fine; the server could not take it now."""

    code = "unavailable"


class ModelUnavailable(TryLater):
    """The version is loading, failed, restarting or unavailable."""

    code = "model_unavailable"


class WorkerLost(ModelUnavailable):
    """The worker that held the request stopped before it answered."""


class StorageUnavailable(TryLater):
    """The server's database cannot be used now; try again later."""

    code = "storage_unavailable"


class Overloaded(TryLater):
    """The queue is full."""

    code = "overloaded"


class RateLimited(TryLater):
    """The API key has used up its rate; try again later."""

    code = "rate_limited"


class QuotaExceeded(TryLater):
    """The API key has used up its quota; try again later."""

    code = "quota_exceeded"


class DeadlineExceeded(ServingError):
    """The deadline passed before the answer was ready."""

    code = "deadline_exceeded"


class PoisonInput(ServingError):
    """The worker ended twice while it ran this input; it is not run again."""

    code = "poison_input"


class Cancelled(ServingError):
    """The caller left before the answer was ready."""

    code = "cancelled"


class CannotLoad(ServingError):
    """A version could not be loaded."""

    code = "cannot_load"


class FileUnavailable(CannotLoad):
    """A model file is missing and could not be fetched."""


class UnavailableForNow(FileUnavailable):
    """A model file could not be had for a reason that passes by itself; it is tried again."""

    code = "cannot_load_now"


class LoadTimedOut(CannotLoad):
    """A worker took longer to load than it may."""


class ConfigurationError(ServingError):
    """A setting or a catalog entry is wrong."""

    code = "configuration"


def will_pass(error: BaseException | None) -> bool:
    """Whether it, or what it was raised from, is worth another try later."""
    while error is not None and not isinstance(error, UnavailableForNow):
        error = error.__cause__
    return error is not None


def _tree(root: type[ServingError]) -> Iterator[type[ServingError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def from_code(code: str, message: str) -> ServingError:
    """Rebuild an error that crossed a process; the most general class that owns the code."""
    owner = next((cls for cls in _tree(ServingError) if cls.code == code), ServingError)
    return owner(message)
