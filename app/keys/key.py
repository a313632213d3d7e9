"""What a key may do, and how much: frozen records, and the one check of what is asked for."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from math import inf

from app.core.errors import InvalidRequest
from app.core.types import Priority

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
MOST_MODELS = 256
MOST = 10**15
KEY_ID_PREFIX = "key_"
PRIORITIES = {priority.name.lower(): priority for priority in Priority}


def is_key_id(caller: str) -> bool:
    """Whether it is how a key is called where callers without one are called by their own names."""
    return caller.startswith(KEY_ID_PREFIX)


class Scope(StrEnum):
    """What a route asks of a key."""

    INFER = "infer"
    JOBS = "jobs"
    MODELS_READ = "models:read"
    MODELS_WRITE = "models:write"
    METRICS = "metrics"
    ADMIN = "admin"


USUAL_SCOPES = frozenset({Scope.INFER, Scope.JOBS, Scope.MODELS_READ})


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much a key may do; None: any. Days and months are those of UTC.

    Rates and concurrency are those of each server process, quotas and budget of all together.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    daily_requests: int | None = None
    daily_tokens: int | None = None
    monthly_requests: int | None = None
    monthly_tokens: int | None = None
    monthly_budget_nanos: int | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is any."""
        return self != _NONE

    @property
    def has_quota(self) -> bool:
        return any(getattr(self, name) is not None for name in QUOTAS)


_NONE = KeyLimits()
LIMITS = tuple(each.name for each in fields(KeyLimits))
QUOTAS = LIMITS[3:]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a key is made with. models: names; None: all. expires_at: seconds since 1970."""

    name: str
    scopes: frozenset[Scope] = USUAL_SCOPES
    models: frozenset[str] | None = None
    limits: KeyLimits = field(default_factory=KeyLimits)
    max_priority: Priority = Priority.INTERACTIVE
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A key that exists. hint: how it looks; the secret itself is known to its owner alone.

    valid_until: the end of what was shown, which may be an earlier secret of the key.
    """

    id: str
    hint: str
    created_at: float
    terms: Terms
    revoked_at: float | None = None
    valid_until: float = inf

    @property
    def name(self) -> str:
        return self.terms.name

    def state(self, now: float) -> str:
        if self.revoked_at is not None:
            return "revoked"
        ends = self.terms.expires_at
        return "expired" if ends is not None and ends <= now else "active"


def checked(terms: Terms, now: float, former: Terms | None = None) -> Terms:
    """As given. former: what it was before; a key that has expired may be changed otherwise.

    Raises InvalidRequest naming what is wrong with it.
    """
    if not _NAME.fullmatch(terms.name):
        raise InvalidRequest(
            f"name is {terms.name[:80]!r}; send 1 to 64 of A-Za-z0-9._-, a letter or digit first"
        )
    if not terms.scopes:
        raise InvalidRequest(f"scopes is empty; send at least one of {', '.join(Scope)}")
    _check_models(terms.models)
    for name in LIMITS:
        value = getattr(terms.limits, name)
        if value is not None and not 0 < value <= MOST:
            shown = name.removesuffix("_nanos")
            raise InvalidRequest(f"{shown} must be above 0 and at most {MOST}, or left out")
    is_kept = former is not None and former.expires_at == terms.expires_at
    if terms.expires_at is not None and terms.expires_at <= now and not is_kept:
        raise InvalidRequest("expires_at is in the past; such a key could never be used")
    return terms


def _check_models(models: Collection[str] | None) -> None:
    if models is None:
        return
    if not 0 < len(models) <= MOST_MODELS:
        raise InvalidRequest(f"models must name 1 to {MOST_MODELS} models, or be left out for all")
    for model in models:
        if not _MODEL.fullmatch(model):
            raise InvalidRequest(
                f"models: {model[:80]!r} is no model's name; leave out its version"
            )


def scopes_of(names: Iterable[str]) -> frozenset[Scope]:
    """Raises InvalidRequest naming one that does not exist."""
    known = {scope.value for scope in Scope}
    for name in names:
        if name not in known:
            raise InvalidRequest(f"scopes: {name[:40]!r} is unknown; there are {', '.join(Scope)}")
    return frozenset(Scope(name) for name in names)


def priority_of(name: str) -> Priority:
    """Raises InvalidRequest."""
    if name not in PRIORITIES:
        raise InvalidRequest(
            f"max_priority is {name[:40]!r}; send one of {', '.join(PRIORITIES)}, or leave it out"
        )
    return PRIORITIES[name]
