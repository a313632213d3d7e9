"""A setting that is not written down does not exist for whoever runs the server."""

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import annotated_types
import pytest
from dotenv import dotenv_values
from pydantic.fields import FieldInfo

from app.core.config import Settings, load_settings

pytestmark = pytest.mark.usefixtures("no_settings")
ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
FIELDS = {name.upper(): field for name, field in Settings.model_fields.items()}
PRODUCTS_OWN = ["DEBUG", "HOST", "PORT", "DEFAULT_MODEL", "MAX_BATCH_SIZE", "BATCH_TIMEOUT_MS"]
COMPOSE_ALONE = {
    "BIND_ADDRESS",
    "REPLICA_ALLOW_ANONYMOUS",
    "REPLICA_MEMORY",
    "STOP_GRACE_PERIOD",
    "WITH_HUB",
    "WITH_MODELS",
}
HUB_CLIENT = {"HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN"}

ENTRY = re.compile(r"((?:^# .*\n)+?)^(# )?([A-Z_]+)=(.*)$", re.MULTILINE)
ROW = re.compile(r"^\| `([A-Z_]+)` \|([^|]*)\|(.*)\|$", re.MULTILINE)


def depends_on_the_machine(field: FieldInfo) -> bool:
    return field.default_factory is not None or field.default is None


def parsed(variable: str, text: str) -> object:
    """What the server makes of a value, so that 100 and 100.0 are the same."""
    return getattr(Settings.model_validate({variable.lower(): text}), variable.lower())


def rows(document: str) -> dict[str, tuple[str, list[str]]]:
    """variable -> default, further cells"""
    text = (ROOT / document).read_text(encoding="utf-8")
    return {
        name: (default.strip(), [cell.strip() for cell in rest.split("|")])
        for name, default, rest in ROW.findall(text)
    }


def allowed(field: FieldInfo) -> str:
    """The bounds in the words of docs/settings.md."""
    bounds = {
        type(bound): f"{getattr(bound, type(bound).__name__.lower()):,.15g}"
        for bound in field.metadata
        if isinstance(bound, annotated_types.Ge | annotated_types.Gt | annotated_types.Le)
    }
    if annotated_types.Gt in bounds:
        return f"above {bounds[annotated_types.Gt]}, to {bounds[annotated_types.Le]}"
    if annotated_types.Ge in bounds:
        return f"{bounds[annotated_types.Ge]} to {bounds[annotated_types.Le]}"
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return ", ".join(f"`{choice}`" for choice in choices)


def test_a_copy_of_the_example_changes_no_default(tmp_path):
    defaults = load_settings()
    (tmp_path / ".env").write_text(EXAMPLE, encoding="utf-8")
    assert load_settings() == defaults


def test_the_example_sets_what_does_not_depend_on_the_machine():
    fixed = {name for name, field in FIELDS.items() if not depends_on_the_machine(field)}
    assert set(dotenv_values(ROOT / ".env.example")) == fixed


def test_the_example_begins_with_the_products_own_variables():
    assert [name for *_, name, _ in ENTRY.findall(EXAMPLE)][:6] == PRODUCTS_OWN


def test_the_example_names_nothing_that_nobody_reads():
    assert {name for *_, name, _ in ENTRY.findall(EXAMPLE)} <= (
        set(FIELDS) | COMPOSE_ALONE | HUB_CLIENT
    )


@pytest.mark.parametrize("variable", FIELDS)
def test_the_example_describes_each_setting(variable):
    above = {name: comment for comment, _, name, _ in ENTRY.findall(EXAMPLE)}
    described = " ".join(above[variable].replace("# ", "").split())
    assert described.endswith(FIELDS[variable].description or "no description")


@pytest.mark.parametrize("variable", FIELDS)
def test_the_reference_tells_default_bounds_and_meaning(variable):
    default, (bounds, description) = rows("docs/settings.md")[variable]
    field = FIELDS[variable]

    assert bounds == allowed(field)
    assert description == field.description
    if not depends_on_the_machine(field):
        assert parsed(variable, default.strip("`")) == field.default


def test_the_reference_has_no_setting_that_is_gone():
    assert set(rows("docs/settings.md")) == set(FIELDS)


def test_the_readme_tells_each_setting_with_its_default():
    told = rows("README.md")
    fixed = {name: field for name, field in FIELDS.items() if not depends_on_the_machine(field)}

    assert set(told) == set(FIELDS)
    assert {name: parsed(name, told[name][0].strip("`")) for name in fixed} == {
        name: field.default for name, field in fixed.items()
    }
