"""What a key looks like, and what may be asked of one."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.keys.key import Key, KeyLimits, Scope, Terms, checked, priority_of, scopes_of
from app.keys.secret import digest_of, hint_of, is_key, new_secret
from app.keys.shown import aligned, key_lines, key_object

NOW = 1_800_000_000.0
SECRET = new_secret("usr")
PLACES = st.integers(7, len(SECRET) - 1)


@pytest.mark.parametrize("kind", ["usr", "adm"])
def test_a_secret_has_its_kind_and_enough_of_chance(kind):
    secret = new_secret(kind)
    assert re.fullmatch(rf"sk-{kind}-[0-9A-Za-z]{{43}}[0-9A-Za-z]{{6}}", secret)
    assert is_key(secret) and new_secret(kind) != secret


@given(PLACES, st.sampled_from(string.ascii_letters + string.digits))
def test_one_wrong_character_is_seen_without_a_database(at, char):
    wrong = SECRET[:at] + char + SECRET[at + 1 :]
    assert is_key(wrong) == (wrong == SECRET)


@given(st.text(max_size=80))
def test_no_other_text_is_a_key(text):
    assert not is_key(text)


ALMOST = [f" {SECRET}", f"{SECRET}\n", SECRET.upper(), SECRET * 2, "none"]


@pytest.mark.parametrize("text", ALMOST, ids=range(len(ALMOST)))
def test_a_key_is_taken_as_it_is_or_not_at_all(text):
    assert not is_key(text)


def test_the_hint_tells_keys_apart_and_opens_nothing():
    assert hint_of(SECRET) == f"sk-usr-...{SECRET[-4:]}"
    assert re.fullmatch(r"[0-9a-f]{64}", digest_of(SECRET))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (Terms(""), "name"),
        (Terms("-x"), "name"),
        (Terms("x" * 65), "name"),
        (Terms("a\nb"), "name"),
        (Terms("a", frozenset()), "scopes"),
        (Terms("a", models=frozenset()), "models"),
        (Terms("a", models=frozenset({"../etc"})), "models"),
        (Terms("a", models=frozenset({"sentiment:v1"})), "version"),
        (Terms("a", models=frozenset(map(str, range(257)))), "256"),
        (Terms("a", limits=KeyLimits(requests_per_minute=0)), "requests_per_minute"),
        (Terms("a", limits=KeyLimits(monthly_budget_nanos=10**16)), "monthly_budget must"),
        (Terms("a", expires_at=NOW), "expires_at"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_terms_are_refused_with_the_name_of_the_field(wrong, named):
    with pytest.raises(InvalidRequest, match=named):
        checked(wrong, NOW)


def test_unknown_words_are_answered_with_the_known_ones():
    with pytest.raises(InvalidRequest, match="'root' is unknown; there are infer, jobs"):
        scopes_of(["infer", "root"])
    with pytest.raises(InvalidRequest, match="interactive, normal, batch"):
        priority_of("urgent")


def test_a_key_is_shown_without_anything_that_opens_it():
    limits = KeyLimits(requests_per_minute=60, monthly_budget_nanos=2_500_000_000)
    key = Key("key_1", hint_of(SECRET), NOW, Terms("app", frozenset({Scope.INFER}), limits=limits))
    shown = key_object(key, NOW)
    assert shown["limits"] == {"requests_per_minute": 60, "monthly_budget": 2.5}
    assert shown["created_at"] == "2027-01-15T08:00:00Z"
    assert SECRET[7:20] not in f"{shown} {key!r}" and "digest" not in f"{shown} {key!r}"
    assert "requests_per_minute=60" in key_lines([key], NOW)[1]


@pytest.mark.parametrize(
    ("terms", "revoked_at", "state"),
    [
        (Terms("a"), None, "active"),
        (Terms("a", expires_at=NOW), None, "expired"),
        (Terms("a", expires_at=NOW + 1), None, "active"),
        (Terms("a", expires_at=NOW), NOW, "revoked"),
    ],
    ids=["open", "past", "ahead", "both"],
)
def test_the_state_of_a_key(terms, revoked_at, state):
    assert Key("k", "", 0, terms, revoked_at).state(NOW) == state


def test_columns_stand_under_each_other():
    assert aligned([("A", "BB"), ("CCC", "D")], right=[1]) == ["A    BB", "CCC   D"]
