"""`python -m app.cli keys` and `usage`: beside a running server, which sees it within a second."""

import argparse
import getpass
import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from app.core.errors import InvalidRequest
from app.keys import admin, audit, shown, store, usage_rows
from app.keys.audit import Actor
from app.core.price import NANOS
from app.keys.key import LIMITS, KeyLimits, Scope, Terms, priority_of, scopes_of
from app.keys.key import PRIORITIES, USUAL_SCOPES
from app.keys.quotas import day_of
from app.keys.usage_rows import GROUPS
from app.keys.usage_shown import USUAL_GROUPS, groups_of, period_of, usage_csv, usage_lines
from app.storage.engines import Engines, open_engines
from app.storage.schema import migrate

_DURATION = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNIT_S = {"m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Said:
    """out: what was asked for, for other programs. aside: what a person should know."""

    out: Sequence[str] = ()
    aside: Sequence[str] = ()


def add_commands(commands: Any) -> None:
    """`keys` and what is below it, and `usage`."""
    keys = commands.add_parser("keys", help="make, list, revoke and rotate API keys")
    actions = keys.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key; prints it, once")
    create.add_argument("name", help="who or what will use it: 1 to 64 of A-Za-z0-9._-")
    usual = ", ".join(sorted(USUAL_SCOPES))
    create.add_argument(
        "--scope",
        action="append",
        metavar="SCOPE",
        help=f"{', '.join(Scope)}; may be repeated (default: {usual})",
    )
    create.add_argument(
        "--model", action="append", metavar="MODEL", help="may be repeated (default: all models)"
    )
    create.add_argument("--max-priority", default="interactive", help=", ".join(PRIORITIES))
    create.add_argument("--expires", metavar="WHEN", help="2027-01-31, or in 90d, 12h, 30m")
    for name in LIMITS:
        option = name.removesuffix("_nanos")
        kind = _money if name.endswith("_nanos") else _count
        create.add_argument(
            f"--{option.replace('_', '-')}", dest=name, type=kind, metavar="N", help="default: any"
        )
    actions.add_parser("list", help="all keys, also those that are revoked or expired")
    revoke = actions.add_parser("revoke", help="end a key, everywhere and for good")
    rotate = actions.add_parser("rotate", help="a new secret for a key; prints it, once")
    rotate.add_argument(
        "--grace", default="", metavar="TIME", help="take the old one for 30m, 12h, 7d yet"
    )
    for action in (revoke, rotate):
        action.add_argument("name", help="the key's name or id")

    usage = commands.add_parser("usage", help="what was used, and what it cost")
    usage.set_defaults(action="usage")
    usage.add_argument("--from", dest="first", metavar="DAY", help="2027-01-01 (default: 30 days)")
    usage.add_argument("--to", dest="last", metavar="DAY", help="included (default: today)")
    usage.add_argument(
        "--by", metavar="GROUPS", help=f"{','.join(GROUPS)} (default: {','.join(USUAL_GROUPS)})"
    )
    usage.add_argument("--key", metavar="NAME", help="of one key (default: of all)")
    usage.add_argument("--csv", action="store_true", help="for other programs")


def run(options: argparse.Namespace, address: str) -> Said:
    """address: of the database. Raises ServingError."""
    engines = open_engines(address, 1)
    with closing(_Disposing(engines)):
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
        expires_at=_expiry(options.expires, now) if options.expires else None,
    )
    with engines.writing() as connection:
        _, secret, act = admin.create(connection, _actor(), terms, now)
    audit.tell(act)
    return Said([secret], ["This is the only time that the key is shown; keep it safe."])


def _list(_: argparse.Namespace, engines: Engines, now: float) -> Said:
    with engines.reader.begin() as connection:
        keys = store.all_keys(connection)
    return Said(shown.key_lines(keys, now)) if keys else Said(aside=["There are no keys."])


def _revoke(options: argparse.Namespace, engines: Engines, now: float) -> Said:
    with engines.writing() as connection:
        key, act = admin.revoke(connection, _actor(), options.name, now)
    audit.tell(act)
    return Said(aside=[f"{key.name} is revoked; running servers see it within a second."])


def _rotate(options: argparse.Namespace, engines: Engines, now: float) -> Said:
    grace_s = _seconds("--grace", options.grace) if options.grace else 0.0
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


_ACTIONS = {"usage": _usage, "create": _create, "list": _list, "revoke": _revoke, "rotate": _rotate}


def _actor() -> Actor:
    try:
        return Actor(f"cli:{getpass.getuser()}")
    except (KeyError, OSError):  # a user without a name, as in a container
        return Actor("cli")


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,15}", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number above 0")
    return int(text)


def _money(text: str) -> int:
    try:
        nanos = Decimal(text) * NANOS
    except InvalidOperation:
        nanos = Decimal(0)
    if not nanos.is_finite() or nanos < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no amount of money above 0")
    return int(nanos)


def _expiry(text: str, now: float) -> float:
    if _DURATION.fullmatch(text):
        return now + _seconds("--expires", text)
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"--expires is {text[:40]!r}; send a date (2027-01-31) or a time (90d, 12h, 30m)"
        ) from None
    return (day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp()


def _seconds(option: str, text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{option} is {text[:40]!r}; send a time: 30m, 12h or 7d")
    return int(found[1]) * _UNIT_S[found[2]]
