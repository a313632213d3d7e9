"""Who is at the door, whatever he says of himself."""

import pytest

from app.core.errors import InvalidRequest
from app.core.types import Asker
from app.keys.gate import UNTRUSTED, Caller


def test_who_has_no_key_cannot_go_by_the_name_of_one():
    """Jobs, usage and shares of a key are under its id."""
    with pytest.raises(InvalidRequest, match="key_1"):
        Caller(UNTRUSTED).asks(Asker("key_1"))
    assert Caller(UNTRUSTED).asks(Asker("keynote")) == Asker("keynote")
