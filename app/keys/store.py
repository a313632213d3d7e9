"""Keys in the database. Every function runs inside a transaction that its caller holds.

Each change raises the generation: whoever keeps keys in memory sees by one number that what it
knows may be wrong. It is 0 as long as no key was ever made. Keys are never deleted, so that what
they used keeps its name.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from app.core.errors import KeyNotFound, NameTaken
from app.core.types import Priority
from app.keys.key import KEY_ID_PREFIX, LIMITS, Key, KeyLimits, Scope, Terms, checked
from app.keys.secret import Kind, digest_of, hint_of, new_secret
from app.keys.tables import GENERATION, KEYS

_SEPARATOR = " "


def create(connection: Connection, terms: Terms, now: float) -> tuple[Key, str]:
    """The key and its secret, which nobody can have again. Raises InvalidRequest, NameTaken."""
    checked(terms, now)
    secret = new_secret(_kind(terms))
    key = Key(f"{KEY_ID_PREFIX}{secrets.token_hex(8)}", hint_of(secret), now, terms)
    try:
        connection.execute(insert(KEYS).values(digest=digest_of(secret), **_row(key)))
    except IntegrityError:
        raise NameTaken(
            f"there is a key named {terms.name!r}; names are never used again"
        ) from None
    _raise_generation(connection)
    return key, secret


def revoke(connection: Connection, named: str, now: float) -> Key:
    """named: by name or id. Once revoked, it stays so. Raises KeyNotFound."""
    key = get(connection, named)
    if key.revoked_at is None:
        connection.execute(update(KEYS).where(KEYS.c.id == key.id).values(revoked_at=now))
        _raise_generation(connection)
    return get(connection, key.id)


def rotate(connection: Connection, named: str, now: float, grace_s: float) -> tuple[Key, str]:
    """A new secret for the same key; the old one is taken for so long. Raises KeyNotFound."""
    key = get(connection, named)
    if key.revoked_at is not None:
        raise KeyNotFound(f"the key {key.name!r} is revoked; make another")
    secret = new_secret(_kind(key.terms))
    values = {
        "previous_digest": KEYS.c.digest if grace_s > 0 else None,
        "previous_until": now + grace_s if grace_s > 0 else None,
        "digest": digest_of(secret),
        "hint": hint_of(secret),
    }
    connection.execute(update(KEYS).where(KEYS.c.id == key.id).values(values))
    _raise_generation(connection)
    return get(connection, key.id), secret


def find(connection: Connection, digest: str, now: float) -> Key | None:
    """The key that a secret opens now, by the secret's digest."""
    columns = (KEYS.c.digest, KEYS.c.previous_digest)
    row = connection.execute(
        select(KEYS).where(or_(*(column == digest for column in columns)))
    ).one_or_none()
    if row is None:
        return None
    ends = [row.expires_at, row.previous_until if row.digest != digest else None]
    valid_until = min((end for end in ends if end is not None), default=float("inf"))
    is_open = row.revoked_at is None and valid_until > now
    return _key(row, valid_until) if is_open else None


def get(connection: Connection, named: str) -> Key:
    """By name or id, whatever its state. Raises KeyNotFound."""
    row = connection.execute(
        select(KEYS).where(or_(KEYS.c.name == named, KEYS.c.id == named))
    ).first()
    if row is None:
        raise KeyNotFound(f"there is no key {named[:80]!r}")
    return _key(row)


def all_keys(connection: Connection) -> Sequence[Key]:
    """In the order in which they were made."""
    order = (KEYS.c.created_at, KEYS.c.name)
    return [_key(row) for row in connection.execute(select(KEYS).order_by(*order))]


def generation(connection: Connection) -> int:
    return int(connection.scalars(select(GENERATION.c.generation)).one())


def _raise_generation(connection: Connection) -> None:
    connection.execute(update(GENERATION).values(generation=GENERATION.c.generation + 1))


def _kind(terms: Terms) -> Kind:
    return "adm" if Scope.ADMIN in terms.scopes else "usr"


def _row(key: Key) -> dict[str, Any]:
    terms = key.terms
    return {
        "id": key.id,
        "hint": key.hint,
        "created_at": key.created_at,
        "name": terms.name,
        "scopes": _SEPARATOR.join(sorted(terms.scopes)),
        "models": None if terms.models is None else _SEPARATOR.join(sorted(terms.models)),
        "max_priority": int(terms.max_priority),
        "expires_at": terms.expires_at,
        **{name: getattr(terms.limits, name) for name in LIMITS},
    }


def _key(row: Any, valid_until: float = float("inf")) -> Key:
    models = None if row.models is None else frozenset(row.models.split(_SEPARATOR))
    terms = Terms(
        name=row.name,
        scopes=frozenset(map(Scope, row.scopes.split(_SEPARATOR))),
        models=models,
        limits=KeyLimits(*(getattr(row, name) for name in LIMITS)),
        max_priority=Priority(row.max_priority),
        expires_at=row.expires_at,
    )
    return Key(row.id, row.hint, row.created_at, terms, row.revoked_at, valid_until)
