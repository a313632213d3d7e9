"""What a caller's text must be, whichever protocol it came by."""

from collections.abc import Mapping
from typing import Any


def problem_of_text(text: str, max_chars: int) -> str | None:
    """What is wrong with it, as the end of a sentence that begins with its field; None: nothing."""
    if len(text) > max_chars:
        return (
            f"has {len(text)} characters, at most {max_chars} are taken; "
            "split it, or raise MAX_TEXT_CHARS"
        )
    if not text or text.isspace():
        return "is blank; send at least one visible character"
    if (position := text.find("\0")) >= 0:
        return f"holds the character U+0000 at index {position}; take it out"
    return None


def count_chars(value: Any) -> int:
    """Of all texts within lists and objects."""
    count = 0
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            count += len(each)
        elif isinstance(each, Mapping):
            left.extend(each.values())
        elif isinstance(each, list | tuple):
            left.extend(each)
    return count
