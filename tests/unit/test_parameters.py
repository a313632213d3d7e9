"""Request parameters: one declaration checks, documents and fills the gaps."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.core.parameters import Parameter, resolve
from app.tasks.catalogue import TASKS

COUNT = Parameter("count", "integer", 1, "How many.", minimum=1, maximum=8)
HEAT = Parameter("heat", "number", 0.7, "How wild.", minimum=0, maximum=2)
CUT = Parameter("cut", "boolean", False, "Whether to cut.")
TAG = Parameter("tag", "string", "", "A tag.", max_length=3)
STOP = Parameter("stop", "strings", (), "Where to end.", max_items=2, max_length=3)
SEED = Parameter("seed", "integer", None, "The seed.", minimum=0)
ALL = (COUNT, HEAT, CUT, TAG, STOP, SEED)

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)


def refusal(parameter, value):
    with pytest.raises(InvalidRequest) as refused:
        parameter.check(value)
    return str(refused.value)


def test_gaps_are_filled_with_defaults_and_what_is_given_stays():
    assert resolve(ALL, {"count": 3, "stop": ["a"]}) == {
        "count": 3,
        "heat": 0.7,
        "cut": False,
        "tag": "",
        "stop": ["a"],
        "seed": None,
    }


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InvalidRequest, match=r"parameters\.cuont is unknown.*: count, heat"):
        resolve((HEAT, COUNT), {"cuont": 3})


def test_a_version_without_parameters_says_so():
    with pytest.raises(InvalidRequest, match="takes: none"):
        resolve((), {"count": 3})


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        (COUNT, 0, "parameters.count must be at least 1, not 0"),
        (COUNT, 9, "parameters.count must be at most 8, not 9"),
        (COUNT, 2.0, "parameters.count must be an integer, not float"),
        (COUNT, "2", "parameters.count must be an integer, not str"),
        (COUNT, True, "parameters.count must be an integer, not bool"),
        (COUNT, None, "parameters.count must be an integer, not NoneType"),
        (HEAT, 2.5, "parameters.heat must be at most 2, not 2.5"),
        (HEAT, float("nan"), "parameters.heat must be at least 0, not nan"),
        (HEAT, float("inf"), "parameters.heat must be at most 2, not inf"),
        (HEAT, False, "parameters.heat must be a number, not bool"),
        (CUT, 1, "parameters.cut must be a boolean, not int"),
        (CUT, "true", "parameters.cut must be a boolean, not str"),
        (TAG, "four", "parameters.tag has 4 characters, at most 3 are taken"),
        (TAG, ["a"], "parameters.tag must be a string, not list"),
        (STOP, "abc", "parameters.stop must be a list of strings, not str"),
        (STOP, ["a", "b", "c"], "parameters.stop has 3 entries, at most 2 are taken"),
        (STOP, ["four"], "parameters.stop has 4 characters, at most 3 are taken"),
        (STOP, [""], "parameters.stop must hold non-empty strings only"),
        (STOP, [1], "parameters.stop must hold non-empty strings only"),
        (SEED, -1, "parameters.seed must be at least 0, not -1"),
    ],
    ids=lambda value: getattr(value, "name", None) or repr(value)[:30],
)
def test_a_refusal_names_field_bound_and_value(parameter, value, said):
    assert refusal(parameter, value) == said


@given(st.integers(1, 8))
def test_an_integer_within_its_bounds_is_taken_as_it_is(value):
    assert COUNT.check(value) == value


@given(st.floats(0, 2) | st.integers(0, 2))
def test_a_number_within_its_bounds_becomes_a_float(value):
    taken = HEAT.check(value)
    assert (taken, type(taken)) == (value, float)


@given(st.integers().filter(lambda n: not 1 <= n <= 8))
def test_an_integer_out_of_bounds_never_passes(value):
    assert refusal(COUNT, value).startswith("parameters.count must be at ")


def test_null_stands_for_a_default_of_none():
    assert SEED.check(None) is None


@given(st.sampled_from(ALL), ANY_JSON)
def test_whatever_comes_is_taken_or_refused_and_nothing_else(parameter, value):
    try:
        taken = parameter.check(value)
    except InvalidRequest as refused:
        assert str(refused).startswith(f"parameters.{parameter.name} ")
    else:
        assert parameter.check(taken) == taken, "what was taken once is taken again"


@pytest.mark.parametrize("parameter", [COUNT, HEAT], ids=lambda parameter: parameter.name)
@pytest.mark.parametrize("value", [10**400, 10**5000], ids=["no float", "no text"])
def test_a_number_beyond_all_bounds_is_refused_like_any_other(parameter, value):
    """Printing such an integer in the refusal raised OverflowError: a 500 for a caller's fault."""
    assert refusal(parameter, value).endswith("not a number of more than 20 digits")


def test_a_large_bound_is_told_to_the_last_digit():
    seed = Parameter("seed", "integer", None, "The seed.", maximum=2**53 - 1)
    said = "parameters.seed must be at most 9007199254740991, not 9007199254740992"
    assert refusal(seed, 2**53) == said


def test_a_description_shows_every_bound_that_is_set():
    assert COUNT.describe() == {
        "name": "count",
        "kind": "integer",
        "default": 1,
        "description": "How many.",
        "minimum": 1,
        "maximum": 8,
    }


def test_a_default_of_none_is_shown():
    assert SEED.describe()["default"] is None


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_each_task_declares_parameters_that_take_their_own_defaults(task):
    for parameter in task.parameters:
        assert parameter.check(parameter.default) == parameter.default
        json.dumps(parameter.describe())
    assert len({parameter.name for parameter in task.parameters}) == len(task.parameters)
