"""What administrators do with keys, the same from the command line and over HTTP.

Each function is one transaction's work: the change and its entry in the audit log.
"""

from sqlalchemy import Connection

from app.keys import audit, store
from app.keys.audit import Act, Actor
from app.keys.change import Change, differences
from app.keys.key import Key, Terms


def create(connection: Connection, actor: Actor, terms: Terms, now: float) -> tuple[Key, str, Act]:
    """With the secret. Raises InvalidRequest, NameTaken."""
    key, secret = store.create(connection, terms, now)
    scopes = sorted(terms.scopes)
    return (
        key,
        secret,
        _recorded(connection, actor.does("key.create", key.name, now, scopes=scopes)),
    )


def update(
    connection: Connection, actor: Actor, named: str, change: Change, now: float
) -> tuple[Key, Act | None]:
    """Without an act where nothing differs. Raises InvalidRequest, NameTaken, KeyNotFound."""
    before, key = store.update(connection, named, change, now)
    if before == key:
        return key, None
    changed = differences(before.terms, key.terms)
    act = actor.does("key.update", before.name, now, key_id=key.id, changed=changed)
    return key, _recorded(connection, act)


def revoke(connection: Connection, actor: Actor, named: str, now: float) -> tuple[Key, Act]:
    """Raises KeyNotFound."""
    key = store.revoke(connection, named, now)
    return key, _recorded(connection, actor.does("key.revoke", key.name, now))


def rotate(
    connection: Connection, actor: Actor, named: str, now: float, grace_s: float
) -> tuple[Key, str, Act]:
    """With the new secret. Raises KeyNotFound."""
    key, secret = store.rotate(connection, named, now, grace_s)
    act = actor.does("key.rotate", key.name, now, grace_s=grace_s)
    return key, secret, _recorded(connection, act)


def _recorded(connection: Connection, act: Act) -> Act:
    audit.record(connection, act)
    return act
