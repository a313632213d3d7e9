"""One table gives every error of the tree its status."""

from collections.abc import Iterator

import pytest

from app.api.errors import STATUS, headers_of, shown_to_caller, status_of
from app.core.errors import (
    BodyTooLarge,
    CallerError,
    ConfigurationError,
    ModelUnavailable,
    Overloaded,
    ServingError,
    TryLater,
)


def _tree(root: type[ServingError]) -> Iterator[type[ServingError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


ALL = [cls for cls in _tree(ServingError) if cls.__module__.startswith("app.")]


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_whose_fault_it_is_shows_in_the_status(cls: type[ServingError]):
    error = cls.__new__(cls)  # some take arguments of their own
    status = status_of(error)
    if issubclass(cls, CallerError):
        assert 400 <= status < 500
    elif issubclass(cls, TryLater):
        assert status in (429, 503)
    else:
        assert status >= 499


def test_new_error_inherits_the_status_of_its_parent():
    class QuotaUsedUp(Overloaded):
        """Nothing left this month."""

    assert status_of(QuotaUsedUp()) == STATUS[Overloaded] == 429


@pytest.mark.parametrize(
    ("after_s", "shown"), [(None, "1"), (0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (30, "30")]
)
def test_retry_after_is_whole_seconds_and_never_too_early(after_s: float | None, shown: str):
    assert headers_of(ModelUnavailable(retry_after_s=after_s)) == {"Retry-After": shown}


def test_connection_with_an_unread_body_is_closed():
    assert headers_of(BodyTooLarge()) == {"Connection": "close"}


def test_faults_of_ours_lose_their_text_and_code():
    shown = shown_to_caller(ConfigurationError("/secret/path"))
    assert shown.code == "internal" and "secret" not in str(shown)


def test_other_errors_are_shown_as_they_are():
    error = Overloaded("full", retry_after_s=2)
    assert shown_to_caller(error) is error
