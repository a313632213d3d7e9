"""What went wrong at a hub, in words that somebody can act on; and waiting where waiting helps."""

import errno
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

from app.core.errands import News, Tell
from app.core.errors import FileUnavailable, UnavailableForNow

TRIES = 4
MAX_WAIT_S = 60  # a longer wait is the caller's to decide on
LIMITED = 429
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Subject:
    """What was asked for, for messages."""

    repo: str
    revision: str
    file: str = ""


def patiently(ask: Callable[[], _Answer], tell: Tell) -> _Answer:
    """What `ask` gives, asked again where the hub limits requests, stumbles or drops the line."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return ask()
        except (HfHubHTTPError, httpx.TransportError, LocalEntryNotFoundError) as raised:
            error = _cause(raised)
            wait_s = _worth_waiting_s(error, attempt)
            if wait_s is None or attempt == TRIES:
                raise error from None
        tell(News(f"the hub is asked again in {wait_s} s: {_short(error)}"))
        time.sleep(wait_s)


def _worth_waiting_s(error: Exception, attempt: int) -> int | None:
    if isinstance(error, httpx.TransportError):
        # Nobody there is no stumble: the cache may have it, and the operator wants to know.
        has_stumbled = isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
        return attempt if has_stumbled else None
    if not isinstance(error, HfHubHTTPError):
        return None
    if error.response.status_code == LIMITED:
        wait_s = retry_after_s(error.response) or 2**attempt
        return wait_s if wait_s <= MAX_WAIT_S else None
    return attempt if error.response.status_code >= 500 else None


def retry_after_s(response: httpx.Response) -> int | None:
    given = response.headers.get("Retry-After", "").strip()
    if given.isdecimal():
        return int(given)
    limits = parse_ratelimit_headers(response.headers)
    return math.ceil(limits.reset_in_seconds) if limits else None


@contextmanager
def in_words(about: Subject) -> Iterator[None]:
    """Raises FileUnavailable with one line for what the client and the disk raise.

    UnavailableForNow where the reason passes: the network, the hub's own troubles, a full disk.
    """
    try:
        yield
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise refusal_for(error)(reason_of(error, about)) from error


def refusal_for(error: Exception) -> type[FileUnavailable]:
    """Whether it is worth asking again later, as the type to raise."""
    match _cause(error):
        case OfflineModeIsEnabled():
            passes = False
        case HfHubHTTPError() as refused:
            status = refused.response.status_code
            passes = status >= 500 or status == LIMITED
        case httpx.TransportError():
            passes = True
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            passes = True
        case _:
            passes = False
    return UnavailableForNow if passes else FileUnavailable


def reason_of(error: Exception, about: Subject) -> str:
    error = _cause(error)
    match error:
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set, so the hub is not asked"
        case HfHubHTTPError():
            return _refusal(error, about)
        case httpx.TransportError():
            return (
                f"the hub {endpoint()} cannot be reached ({_short(error)}): check the network, "
                "proxies and HF_ENDPOINT"
            )
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"no space is left in {constants.HF_HUB_CACHE}: free some, or set HF_HOME"
        case OSError():
            return (
                f"the cache {constants.HF_HUB_CACHE} cannot be used ({_short(error)}): set HF_HOME "
                "to a folder that this user may write to"
            )
        case _:
            return (
                f"{endpoint()} does not answer as a hub does ({_short(error)}): check HF_ENDPOINT "
                "and proxies"
            )


def _refusal(error: HfHubHTTPError, about: Subject) -> str:
    status, repo, hub = error.response.status_code, about.repo, endpoint()
    token = "this token" if get_token() else "a caller without a token"
    if isinstance(error, GatedRepoError) or status == 403:
        return (
            f"the hub does not give {repo} to {token} ({status}): ask for access at {hub}/{repo}, "
            "and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"repository {repo} has no revision {about.revision!r} (404)"
    if isinstance(error, RemoteEntryNotFoundError):
        return f"repository {repo} has no file {about.file!r} at revision {about.revision} (404)"
    if status == 401:
        return (
            f"the hub does not show {repo} to {token} (401): it is private, gated or misspelt; "
            "set HF_TOKEN to a token that may read it"
        )
    if status == 404:
        return (
            f"there is no repository {repo} at {hub} (404), or it is private: check its name, or "
            "set HF_TOKEN to a token that may read it"
        )
    if status == LIMITED:
        wait_s = retry_after_s(error.response)
        when = f"in {wait_s} s" if wait_s else "later"
        return f"the hub limits requests (429): try again {when}; with HF_TOKEN set it allows more"
    return f"the hub {hub} answered with {status}"


def endpoint() -> str:
    """Without the name and password that an address may carry."""
    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _cause(error: Exception) -> Exception:
    """The client says only that a file is not in the cache either; what matters is behind it."""
    while isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _short(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"status {error.response.status_code}"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
