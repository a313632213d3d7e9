"""The error tree, and its way across a process."""

import pytest

from app.core.errors import (
    CallerError,
    CannotLoad,
    Overloaded,
    ServingError,
    TryLater,
    FileUnavailable,
    UnavailableForNow,
    from_code,
    will_pass,
)


def tree(root: type[ServingError]) -> list[type[ServingError]]:
    return [root, *(cls for child in root.__subclasses__() for cls in tree(child))]


CORE = [cls for cls in tree(ServingError) if cls.__module__ == "app.core.errors"]
OWNS_A_CODE = [cls for cls in CORE if "code" in vars(cls)]


@pytest.mark.parametrize("cls", CORE, ids=lambda cls: cls.__name__)
def test_an_error_that_crossed_a_process_keeps_code_text_and_family(cls):
    back = from_code(cls.code, "why")

    assert (back.code, str(back)) == (cls.code, "why")
    assert isinstance(cls(), type(back)), "it may become more general, never another thing"


@pytest.mark.parametrize("cls", OWNS_A_CODE, ids=lambda cls: cls.__name__)
def test_the_owner_of_a_code_comes_back_as_itself(cls):
    assert type(from_code(cls.code, "why")) is cls


def test_no_two_families_share_a_code():
    codes = [cls.code for cls in OWNS_A_CODE]
    assert len(codes) == len(set(codes))


def test_what_was_raised_from_something_that_passes_will_pass():
    outer = FileUnavailable("the checkpoint is not available")
    outer.__cause__ = FileUnavailable("the hub")
    assert not will_pass(outer)
    outer.__cause__.__cause__ = from_code(UnavailableForNow.code, "the hub cannot be reached")
    assert will_pass(outer)
    assert not will_pass(None)


def test_an_unknown_code_is_a_fault_of_ours():
    back = from_code("from_a_newer_worker", "why")
    assert (type(back), back.code, str(back)) == (ServingError, "internal", "why")


@pytest.mark.parametrize("cls", CORE, ids=lambda cls: cls.__name__)
def test_each_class_has_a_message_of_its_own(cls):
    assert str(cls()) == cls.__doc__
    assert [other for other in CORE if other.__doc__ == cls.__doc__] == [cls]


def test_a_given_message_replaces_the_docstring():
    assert str(Overloaded("512 of 512 places are taken")) == "512 of 512 places are taken"


def test_only_the_asker_says_when_to_come_back():
    assert Overloaded().retry_after_s is None
    assert Overloaded(retry_after_s=1.5).retry_after_s == 1.5


def test_the_type_says_whose_fault_it_is():
    families = (CallerError, TryLater, CannotLoad)
    for cls in CORE:
        assert sum(issubclass(cls, family) for family in families) <= 1, cls
