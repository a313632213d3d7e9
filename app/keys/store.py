"""Keys in the database. Every function runs inside a transaction that its caller holds.

Each change raises the generation: whoever keeps keys in memory sees by one number that what it
knows may be wrong. It is 0 as long as no key was ever made. Keys are never deleted, so that what
they used keeps its name.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, case, delete, insert, or_, select
from sqlalchemy import update as updating
from sqlalchemy.exc import IntegrityError

from app.core.errors import KeyNotFound, NameTaken
from app.core.types import Priority
from app.keys.change import Change
from app.keys.key import KEY_ID_PREFIX, LIMITS, Key, KeyLimits, Scope, Terms, checked
from app.keys.secret import Kind, digest_of, hint_of, new_secret
from app.keys.tables import FORMER_NAMES, GENERATION, KEYS

_SEPARATOR = " "


def create(connection: Connection, terms: Terms, now: float) -> tuple[Key, str]:
    """The key and its secret, which nobody can have again. Raises InvalidRequest, NameTaken."""
    checked(terms, now)
    secret = new_secret(_kind(terms))
    key = Key(f"{KEY_ID_PREFIX}{secrets.token_hex(8)}", hint_of(secret), now, terms)
    with _only_once(connection, key):
        connection.execute(insert(KEYS).values(digest=digest_of(secret), **_row(key)))
    _raise_generation(connection)
    return key, secret


def update(connection: Connection, named: str, change: Change, now: float) -> tuple[Key, Key]:
    """As it was and as it is; the same where nothing differs. A name that it had stays its own.

    Raises InvalidRequest, NameTaken, KeyNotFound.
    """
    key = _not_revoked(get(connection, named, is_to_change=True))
    changed = replace(key, terms=checked(change.of(key.terms), now, key.terms))
    if changed == key:
        return key, key
    with _only_once(connection, changed):
        mine = KEYS.c.id == key.id
        connection.execute(updating(KEYS).where(mine).values(_terms_row(changed.terms)))
        if changed.name != key.name:
            _keep_name(connection, key)
    _raise_generation(connection)
    return key, changed


def revoke(connection: Connection, named: str, now: float) -> Key:
    """named: by name or id. Once revoked, it stays so. Raises KeyNotFound."""
    key = get(connection, named)
    if key.revoked_at is None:
        connection.execute(updating(KEYS).where(KEYS.c.id == key.id).values(revoked_at=now))
        _raise_generation(connection)
    return get(connection, key.id)


def rotate(connection: Connection, named: str, now: float, grace_s: float) -> tuple[Key, str]:
    """A new secret for the same key; the old one is taken for so long. Raises KeyNotFound."""
    key = _not_revoked(get(connection, named))
    secret = new_secret(_kind(key.terms))
    values = {
        "previous_digest": KEYS.c.digest if grace_s > 0 else None,
        "previous_until": now + grace_s if grace_s > 0 else None,
        "digest": digest_of(secret),
        "hint": hint_of(secret),
    }
    connection.execute(updating(KEYS).where(KEYS.c.id == key.id).values(values))
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


def get(connection: Connection, named: str, *, is_to_change: bool = False) -> Key:
    """By id, or else by name, whatever its state.

    is_to_change: by nobody else until the transaction ends. Raises KeyNotFound.
    """
    ids_first = case((KEYS.c.id == named, 0), else_=1)
    query = select(KEYS).where(or_(KEYS.c.name == named, KEYS.c.id == named)).order_by(ids_first)
    row = connection.execute(query.with_for_update() if is_to_change else query).first()
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
    connection.execute(updating(GENERATION).values(generation=GENERATION.c.generation + 1))


@contextmanager
def _only_once(connection: Connection, key: Key) -> Iterator[None]:
    """Around the statement that gives a key its name. Raises NameTaken.

    Former names are looked at afterwards: only then has whoever gave one up committed it.
    """
    taken = NameTaken(f"there is or was a key named {key.name!r}; names are never used again")
    try:
        yield
    except IntegrityError:
        raise taken from None
    others = (FORMER_NAMES.c.name == key.name, FORMER_NAMES.c.key_id != key.id)
    if connection.execute(select(FORMER_NAMES).where(*others)).first() is not None:
        raise taken


def _keep_name(connection: Connection, key: Key) -> None:
    connection.execute(delete(FORMER_NAMES).where(FORMER_NAMES.c.name == key.name))
    connection.execute(insert(FORMER_NAMES).values(name=key.name, key_id=key.id))


def _not_revoked(key: Key) -> Key:
    if key.revoked_at is not None:
        raise KeyNotFound(f"the key {key.name!r} is revoked; make another")
    return key


def _kind(terms: Terms) -> Kind:
    return "adm" if Scope.ADMIN in terms.scopes else "usr"


def _row(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "hint": key.hint,
        "created_at": key.created_at,
        **_terms_row(key.terms),
    }


def _terms_row(terms: Terms) -> dict[str, Any]:
    return {
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
