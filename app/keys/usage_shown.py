"""Usage as JSON, as CSV and as a table, the same sums in each; and the words that ask for it."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from app.core.errors import InvalidRequest
from app.core.price import NANOS
from app.keys.gate import ANONYMOUS_NAME
from app.keys.shown import aligned
from app.keys.tables import COUNTS
from app.keys.usage_rows import GROUPS, Period

USUAL_DAYS = 30
USUAL_GROUPS = ("model",)
FIGURES = (*COUNTS, "compute_ms", "cost")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = Mapping[str, Any]


def period_of(first: str | None, last: str | None, today: date) -> Period:
    """Both days included; the last 30 without. Raises InvalidRequest."""
    until = today if last is None else _day("to", last)
    since = until - timedelta(days=USUAL_DAYS - 1) if first is None else _day("from", first)
    if since > until:
        raise InvalidRequest(f"from is {since}, after to, which is {until}")
    return Period(since, until)


def groups_of(text: str | None) -> tuple[str, ...]:
    """Raises InvalidRequest."""
    given = USUAL_GROUPS if text is None else tuple(text.split(","))
    if len(set(given)) < len(given) or not set(given) <= set(GROUPS):
        raise InvalidRequest(
            f"group_by is {','.join(given)[:80]!r}; send one or more of {', '.join(GROUPS)}, each "
            "once, separated by commas"
        )
    return given


def usage_row(row: Row) -> dict[str, Any]:
    """As JSON has it: a day as text, money in units."""
    shown = {name: value for name, value in row.items() if name != "cost_nanos"}
    if "day" in shown:
        shown["day"] = shown["day"].isoformat()
    if shown.get("key") == "":
        shown["key"] = ANONYMOUS_NAME
    shown["compute_ms"] = round(shown["compute_ms"], 3)
    return {**shown, "cost": row["cost_nanos"] / NANOS}


def usage_csv(rows: Sequence[Row], by: Sequence[str]) -> str:
    """With a head. Nothing in it is a formula to a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    columns = (*by, *FIGURES)
    writer.writerow(columns)
    for row in map(usage_row, rows):
        writer.writerow([_cell(row[column]) for column in columns])
    return out.getvalue()


def usage_lines(rows: Sequence[Row], by: Sequence[str]) -> list[str]:
    columns = (*by, *FIGURES)
    table = [[column.upper() for column in columns]]
    for row in map(usage_row, rows):
        cost, computed = f"{row['cost']:,.6f}", f"{row['compute_ms']:,.0f}"
        counts = [f"{row[name]:,}" for name in COUNTS]
        table.append([*(str(row[name]) for name in by), *counts, computed, cost])
    return aligned(table, right=range(len(by), len(columns)))


def _cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if is_formula else value


def _day(name: str, text: str) -> date:
    try:
        if len(text) != len("2026-01-31"):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{name} is {text[:40]!r}; send a day as 2026-01-31") from None
