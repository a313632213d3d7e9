"""Who asks, and whether he may: the one door of every protocol. Knows no wire.

A credential that has not the form of our keys is as none: clients of other servers send some word
where no key is asked for. One that has it must be good.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.core.errors import Forbidden, InvalidRequest, Unauthenticated
from app.core.types import Asker
from app.keys.key import Key, Scope, is_key_id
from app.keys.limiter import Limiter
from app.keys.limits import KeyMeter
from app.keys.secret import digest_of, is_key

ANONYMOUS_NAME = "anonymous"
UNTRUSTED = frozenset({Scope.INFER, Scope.JOBS, Scope.MODELS_READ, Scope.METRICS})
"""What callers without a key may do where they are let in; where keys do not exist yet also
`models:write`, which MODEL_CONTROL guards. Never `admin`: the first key comes from the command
line."""

LIMITED = frozenset({Scope.INFER, Scope.JOBS})
_INVALID = "The API key is unknown, revoked or expired."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. key: None for those without."""

    scopes: frozenset[Scope]
    key: Key | None = None

    @property
    def name(self) -> str:
        return ANONYMOUS_NAME if self.key is None else self.key.name

    @property
    def key_id(self) -> str:
        """Empty for those without."""
        return "" if self.key is None else self.key.id

    @property
    def models(self) -> frozenset[str] | None:
        """Those that he may know of; None: all."""
        return None if self.key is None else self.key.terms.models

    def check(self, scope: Scope) -> None:
        """Raises Forbidden, or Unauthenticated where there is no key."""
        if scope in self.scopes:
            return
        lacks = f"this needs an API key with the scope {scope.value!r}"
        if self.key is None:
            raise Unauthenticated(lacks)
        raise Forbidden(f"{lacks}, which {self.name!r} lacks")

    def asks(self, asker: Asker) -> Asker:
        """asker: as the request says. Whom it shares with, and its class, are the key's to say.

        Raises InvalidRequest for the name of somebody's key, whose jobs and usage are his own.
        """
        if self.key is None:
            if is_key_id(asker.caller):
                raise InvalidRequest(f"a caller without a key cannot be named {asker.caller!r}")
            return asker
        terms = self.key.terms
        priority = max(asker.priority, terms.max_priority)
        return Asker(self.key.id, priority, self.key.id, terms.models, terms.max_priority)


class Keys(Protocol):
    """keyring.py has it."""

    @property
    def is_empty(self) -> bool: ...

    async def find(self, digest: str) -> Key | None: ...


class Gate:
    """allows_anonymous: whoever has no key is let in. is_private: only this machine reaches us, so
    that nobody needs a key before there is one."""

    def __init__(
        self, keys: Keys, limiter: Limiter, *, allows_anonymous: bool, is_private: bool
    ) -> None:
        self._keys = keys
        self.limiter = limiter
        self._allows_anonymous = allows_anonymous
        self._is_private = is_private
        self._untrusted = Caller(UNTRUSTED)
        self._trusted = Caller(UNTRUSTED | {Scope.MODELS_WRITE})

    async def identify(self, credentials: Sequence[str]) -> Caller:
        """credentials: all that the request has. Does not yield where the key is known.

        Raises Unauthenticated, and StorageUnavailable where it cannot be known.
        """
        keys = {text for text in credentials if is_key(text)}
        if not keys:
            return self._without_key(bool(credentials))
        if len(keys) > 1:
            raise Unauthenticated("There are two API keys in the request; send one.")
        key = await self._keys.find(digest_of(keys.pop()))
        if key is None:
            raise Unauthenticated(_INVALID)
        return Caller(key.terms.scopes, key)

    async def enter(self, caller: Caller, scope: Scope) -> KeyMeter | None:
        """For as long as a request runs; whoever gets a meter ends it. Only work is limited.

        Raises RateLimited, QuotaExceeded, and StorageUnavailable where a quota cannot be known.
        """
        if caller.key is None or scope not in LIMITED:
            return None
        return await self.limiter.enter(caller.key)

    def _without_key(self, has_credentials: bool) -> Caller:
        if self._keys.is_empty and (self._is_private or self._allows_anonymous):
            return self._trusted
        if self._allows_anonymous:
            return self._untrusted
        raise Unauthenticated(_INVALID if has_credentials else None)
