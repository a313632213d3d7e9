"""`python -m app.cli keys` and `usage`: beside a running server, which sees it within a second."""

import argparse
import getpass
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from app.keys import admin, audit, shown, store, usage_rows
from app.keys.audit import Actor
from app.keys.change import Change
from app.keys.command_options import NEVER, NO_LIMIT, expiry, seconds
from app.keys.key import LIMITS, USUAL_SCOPES, KeyLimits, Terms, priority_of, scopes_of
from app.keys.quotas import day_of
from app.keys.usage_shown import groups_of, period_of, usage_csv, usage_lines
from app.storage.engines import Engines, open_engines
from app.storage.schema import migrate
from app.storage.trouble import usable


@dataclass(frozen=True, slots=True)
class Said:
    """out: what was asked for, for other programs. aside: what a person should know."""

    out: Sequence[str] = ()
    aside: Sequence[str] = ()


def run(options: argparse.Namespace, address: str) -> Said:
    """address: of the database. Raises ServingError."""
    engines = open_engines(address, 1)
    with usable(), closing(_Disposing(engines)):
        migrate(engines)
        return _ACTIONS[options.action](options, engines, time.time())


class _Disposing:
    def __init__(self, engines: Engines) -> None:
        self.close = engines.dispose


def _create(options: argparse.Namespace, engines: Engines, now: float) -> Said:
    terms = Terms(
        name=options.name,
        scopes=scopes_of(options.scope) if options.scope else USUAL_SCOPES,
        models=frozenset(options.model) if options.model else None,
        limits=KeyLimits(*(getattr(options, name) for name in LIMITS)),
        max_priority=priority_of(options.max_priority),
        expires_at=expiry(options.expires, now) if options.expires else None,
    )
    with engines.writing() as connection:
        _, secret, act = admin.create(connection, _actor(), terms, now)
    audit.tell(act)
    return Said([secret], ["This is the only time that the key is shown; keep it safe."])


def _list(_: argparse.Namespace, engines: Engines, now: float) -> Said:
    with engines.reader.begin() as connection:
        keys = store.all_keys(connection)
    return Said(shown.key_lines(keys, now)) if keys else Said(aside=["There are no keys."])


def _update(options: argparse.Namespace, engines: Engines, now: float) -> Said:
    change = _change(vars(options), now)
    with engines.writing() as connection:
        key, act = admin.update(connection, _actor(), options.key, change, now)
    if act is None:
        return Said(aside=[f"{key.name} is so already."])
    audit.tell(act)
    changed = [
        f"{name}: {_told(name, values['was'])} -> {_told(name, values['is'])}"
        for name, values in act.details["changed"].items()
    ]
    return Said(aside=[*changed, f"{key.name} is changed; running servers see it within a second."])


def _change(given: Mapping[str, Any], now: float) -> Change:
    """given: the options that were. Raises InvalidRequest."""
    terms: dict[str, Any] = {}
    if "name" in given:
        terms["name"] = given["name"]
    if "scope" in given:
        terms["scopes"] = scopes_of(given["scope"])
    if "model" in given or "all_models" in given:
        terms["models"] = frozenset(given["model"]) if "model" in given else None
    if "max_priority" in given:
        terms["max_priority"] = priority_of(given["max_priority"])
    if "expires" in given:
        is_never = given["expires"] == NEVER
        terms["expires_at"] = None if is_never else expiry(given["expires"], now)
    return Change(terms, {name: given[name] for name in LIMITS if name in given})


def _told(name: str, value: Any) -> str:
    if value is None:
        return {"models": "all", "expires_at": NEVER}.get(name, NO_LIMIT)
    return ",".join(value) if isinstance(value, list) else str(value)


def _revoke(options: argparse.Namespace, engines: Engines, now: float) -> Said:
    with engines.writing() as connection:
        key, act = admin.revoke(connection, _actor(), options.name, now)
    audit.tell(act)
    return Said(aside=[f"{key.name} is revoked; running servers see it within a second."])


def _rotate(options: argparse.Namespace, engines: Engines, now: float) -> Said:
    grace_s = seconds("--grace", options.grace) if options.grace else 0.0
    with engines.writing() as connection:
        key, secret, act = admin.rotate(connection, _actor(), options.name, now, grace_s)
    audit.tell(act)
    old = f"is taken for {options.grace} yet" if grace_s else "is not taken any more"
    return Said([secret], [f"{key.name}: the old secret {old}. This one is shown only now."])


def _usage(options: argparse.Namespace, engines: Engines, now: float) -> Said:
    period = period_of(options.first, options.last, day_of(now))
    by = groups_of(options.by)
    with engines.reader.begin() as connection:
        key_id = None if options.key is None else store.get(connection, options.key).id
        rows = usage_rows.totals(connection, period, by, key_id)
    if options.csv:
        return Said(usage_csv(rows, by).splitlines())
    aside = [f"{period.first} to {period.last}, in UTC; cost in the currency of the catalog."]
    return Said(usage_lines(rows, by), aside)


_ACTIONS = {
    "usage": _usage,
    "create": _create,
    "list": _list,
    "update": _update,
    "revoke": _revoke,
    "rotate": _rotate,
}


def _actor() -> Actor:
    try:
        return Actor(f"cli:{getpass.getuser()}")
    except (KeyError, OSError):  # a user without a name, as in a container
        return Actor("cli")
