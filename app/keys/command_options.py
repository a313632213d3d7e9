"""The options of `keys` and `usage`, and what their values mean."""

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from app.core.errors import InvalidRequest
from app.core.price import NANOS
from app.keys.key import LIMITS, PRIORITIES, USUAL_SCOPES, Scope
from app.keys.usage_rows import GROUPS
from app.keys.usage_shown import USUAL_GROUPS

NO_LIMIT, NEVER = "none", "never"
_DURATION = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNIT_S = {"m": 60.0, "h": 3600.0, "d": 86400.0}
_WHEN = "2027-01-31, or in 90d, 12h, 30m"


def add_commands(commands: Any) -> None:
    """`keys` and what is below it, and `usage`."""
    keys = commands.add_parser("keys", help="make, list, change, rotate and revoke API keys")
    actions = keys.add_subparsers(dest="action", required=True)
    _add_create(actions)
    actions.add_parser("list", help="all keys, also those that are revoked or expired")
    _add_update(actions)
    revoke = actions.add_parser("revoke", help="end a key, everywhere and for good")
    rotate = actions.add_parser("rotate", help="a new secret for a key; prints it, once")
    rotate.add_argument(
        "--grace", default="", metavar="TIME", help="take the old one for 30m, 12h, 7d yet"
    )
    for action in (revoke, rotate):
        action.add_argument("name", help="the key's name or id")
    _add_usage(commands)


def _add_create(actions: Any) -> None:
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
    create.add_argument("--expires", metavar="WHEN", help=_WHEN)
    _add_limits(create, lambda kind: kind, "default: any")


def _add_update(actions: Any) -> None:
    """What is not given is not in the namespace."""
    update = actions.add_parser(
        "update",
        help="change a key; what is not named stays as it is",
        argument_default=argparse.SUPPRESS,
    )
    update.add_argument("key", metavar="ID|NAME", help="the key")
    update.add_argument("--name", metavar="NAME", help="a new name; nobody else gets the old one")
    update.add_argument(
        "--scope",
        action="append",
        metavar="SCOPE",
        help=f"all that it shall have: {', '.join(Scope)}; may be repeated",
    )
    models = update.add_mutually_exclusive_group()
    models.add_argument(
        "--model", action="append", metavar="MODEL", help="all that it may ask; may be repeated"
    )
    models.add_argument("--all-models", action="store_true", help="it may ask any")
    update.add_argument("--max-priority", metavar="CLASS", help=", ".join(PRIORITIES))
    update.add_argument("--expires", metavar="WHEN", help=f"{_WHEN}; or {NEVER}")
    _add_limits(update, _or_none, f"{NO_LIMIT!r} takes it away")


def _add_limits(
    parser: argparse.ArgumentParser,
    taken: Callable[[Callable[[str], int]], Callable[[str], int | None]],
    told: str,
) -> None:
    for name in LIMITS:
        option = name.removesuffix("_nanos").replace("_", "-")
        kind = taken(_money if name.endswith("_nanos") else _count)
        parser.add_argument(f"--{option}", dest=name, type=kind, metavar="N", help=told)


def _add_usage(commands: Any) -> None:
    usage = commands.add_parser("usage", help="what was used, and what it cost")
    usage.set_defaults(action="usage")
    usage.add_argument("--from", dest="first", metavar="DAY", help="2027-01-01 (default: 30 days)")
    usage.add_argument("--to", dest="last", metavar="DAY", help="included (default: today)")
    usage.add_argument(
        "--by", metavar="GROUPS", help=f"{','.join(GROUPS)} (default: {','.join(USUAL_GROUPS)})"
    )
    usage.add_argument("--key", metavar="NAME", help="of one key (default: of all)")
    usage.add_argument("--csv", action="store_true", help="for other programs")


def expiry(text: str, now: float) -> float:
    """Seconds since 1970. Raises InvalidRequest."""
    if _DURATION.fullmatch(text):
        return now + seconds("--expires", text)
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"--expires is {text[:40]!r}; send a date (2027-01-31) or a time (90d, 12h, 30m)"
        ) from None
    return (day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp()


def seconds(option: str, text: str) -> float:
    """Of a time like 90d. Raises InvalidRequest naming the option."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{option} is {text[:40]!r}; send a time: 30m, 12h or 7d")
    return int(found[1]) * _UNIT_S[found[2]]


def _or_none(kind: Callable[[str], int]) -> Callable[[str], int | None]:
    return lambda text: None if text == NO_LIMIT else kind(text)


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
