"""Keys of what is kept between starts: a short hash over everything that shaped it."""

import hashlib
from collections.abc import Sequence

import msgspec


def key_of(parts: Sequence[object]) -> str:
    """32 hexadecimal digits; the same parts give the same key on every machine."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
