"""What an API key looks like: `sk-<kind>-<43 of base62><6 of base62>`.

The 43 are drawn at random (256 bits), the 6 are the CRC-32 of all before them: scanners of
repositories recognise a key, and a mistyped one is refused before any database is asked. Stored is
the SHA-256 alone; a slow hash is for secrets that people choose.
"""

import hashlib
import re
import secrets
import zlib
from typing import Literal

Kind = Literal["adm", "usr"]
"""adm: has the scope `admin`, for whoever finds one lying about."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARS = 43
_CHECK_CHARS = 6
_SHAPE = re.compile(r"sk-(?:adm|usr)-[0-9A-Za-z]{49}", re.ASCII)
_HINT_CHARS = 4


def new_secret(kind: Kind) -> str:
    drawn = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARS))
    head = f"sk-{kind}-{drawn}"
    return head + _check_of(head)


def is_key(text: str) -> bool:
    """Whether it could be one of ours: its shape and checksum are right."""
    return (
        _SHAPE.fullmatch(text) is not None
        and _check_of(text[:-_CHECK_CHARS]) == text[-_CHECK_CHARS:]
    )


def digest_of(secret: str) -> str:
    """What is stored and looked up: 64 hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def hint_of(secret: str) -> str:
    """Enough to tell keys apart, and no more: `sk-usr-...Xy3Z`."""
    return f"{secret[:7]}...{secret[-_HINT_CHARS:]}"


def _check_of(head: str) -> str:
    number, digits = zlib.crc32(head.encode()), ""
    for _ in range(_CHECK_CHARS):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
