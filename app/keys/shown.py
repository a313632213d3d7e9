"""A key as JSON and as a line of a table. Never its secret, nor what could open it."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from app.core.price import NANOS
from app.keys.key import LIMITS, Key, KeyLimits, Terms


def instant(seconds: float | None) -> str | None:
    """RFC 3339, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def limits_of(limits: KeyLimits) -> dict[str, Any]:
    """Those that are set; money in units."""
    shown: dict[str, Any] = {}
    for name in LIMITS:
        if (value := getattr(limits, name)) is not None:
            is_money = name.endswith("_nanos")
            shown[name.removesuffix("_nanos")] = value / NANOS if is_money else value
    return shown


def terms_object(terms: Terms) -> dict[str, Any]:
    return {
        "name": terms.name,
        "scopes": sorted(terms.scopes),
        "models": None if terms.models is None else sorted(terms.models),
        "max_priority": terms.max_priority.name.lower(),
        "limits": limits_of(terms.limits),
        "expires_at": instant(terms.expires_at),
    }


def key_object(key: Key, now: float) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "key": key.hint,
        "state": key.state(now),
        **terms_object(key.terms),
        "created_at": instant(key.created_at),
        "revoked_at": instant(key.revoked_at),
    }


def key_lines(keys: Iterable[Key], now: float) -> list[str]:
    rows = [("NAME", "STATE", "KEY", "SCOPES", "MODELS", "EXPIRES", "LIMITS")]
    for key in keys:
        terms, limits = key.terms, limits_of(key.terms.limits)
        rows.append(
            (
                terms.name,
                key.state(now),
                key.hint,
                ",".join(sorted(terms.scopes)),
                "all" if terms.models is None else ",".join(sorted(terms.models)),
                instant(terms.expires_at) or "never",
                " ".join(f"{name}={value:,}" for name, value in limits.items()) or "none",
            )
        )
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Columns under each other. right: numbers of those that are aligned right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_right = frozenset(right)
    return [
        "  ".join(
            cell.rjust(width) if at in to_right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
