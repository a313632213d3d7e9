"""Calls that a request forces: how they begin, and what they are held to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import InvalidRequest
from app.core.inference import Generated
from app.core.parameters import resolve
from app.tasks.chat_files import ChatFiles
from app.tasks.conversation import Conversations
from app.tasks.generate import Generate
from app.tasks.parameters import GENERATE
from tests.fakes import WordTokenizer

TEMPLATE = (Path(__file__).parents[2] / "tool_template.jinja").read_text(encoding="utf-8")
AS_XML = "{% for m in messages %}{% for c in m.tool_calls %}<tool_call>\n<function={{ c.name }}>"
USER = [{"role": "user", "content": "a"}]
CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}, "again": {"$ref": "#"}},
    "$defs": {"city": {"enum": ["Oslo", "Rome"]}},
}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def forced(choice: Any, *tools: dict[str, Any], template: str = TEMPLATE) -> Any:
    conversation = {"messages": USER, "tools": list(tools), "tool_choice": choice}
    return Conversations(ChatFiles({"default": template})).forced_call(conversation)


class Steered(WordTokenizer):
    """Takes any schema but one that says `hostile`."""

    vocabulary = 1000

    def check_schema(self, schema: str) -> None:
        if "hostile" in schema:
            raise InvalidRequest("the JSON schema cannot be used: it is too large")


def test_a_call_begins_as_the_template_writes_it():
    assert forced("required", tool("f")).opening == "<tool_call>\n"
    close = TEMPLATE.replace("<tool_call>\n{", "<tool_call>{")
    assert forced("required", tool("f"), template=close).opening == "<tool_call>"


def test_a_call_of_one_function_has_its_name_and_arguments():
    schema = json.loads(forced(named("g"), tool("f"), tool("g", parameters=CITY)).schema)
    assert schema["properties"]["name"] == {"const": "g"}
    assert schema["required"] == ["name", "arguments"] and not schema["additionalProperties"]
    assert schema["properties"]["arguments"] == {"$ref": "#/$defs/0"}


def test_references_inside_of_parameters_go_on_pointing_into_them():
    schema = json.loads(forced("required", tool("f"), tool("g", parameters=CITY)).schema)
    assert [each["properties"]["name"]["const"] for each in schema["anyOf"]] == ["f", "g"]
    assert schema["$defs"]["0"] == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }
    moved = schema["$defs"]["1"]["properties"]
    assert moved == {"city": {"$ref": "#/$defs/1/$defs/city"}, "again": {"$ref": "#/$defs/1"}}


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_other_choices_force_nothing(choice):
    assert forced(choice, tool("f")) is None


def test_tools_that_may_not_be_called_are_not_shown():
    conversations = Conversations(ChatFiles({"default": TEMPLATE}))
    shown = conversations.prompt({"messages": USER, "tools": [tool("f")], "tool_choice": "none"})
    assert shown == conversations.prompt({"messages": USER})


@pytest.mark.parametrize(
    ("choice", "template", "told"),
    [
        ("always", TEMPLATE, 'tool_choice must be "auto", "none", "required" or a function'),
        ({"type": "function"}, TEMPLATE, "tool_choice must be"),
        ({"type": "allowed_tools", **named("f")["function"]}, TEMPLATE, "tool_choice must be"),
        (named("h"), TEMPLATE, "tool_choice names 'h', which is none of tools"),
        (
            "required",
            AS_XML + "{% endfor %}{% endfor %}{{ tools }}",
            "does not write calls as JSON",
        ),
        ("required", "{{ raise_exception('no') }}", "does not write calls as JSON"),
    ],
)
def test_what_cannot_be_forced_is_refused(choice, template, told):
    with pytest.raises(InvalidRequest, match=told):
        forced(choice, tool("f"), template=template)


def test_without_tools_no_call_is_forced():
    with pytest.raises(InvalidRequest, match="tool_choice asks for a call, but tools is empty"):
        forced("required")


def task() -> Generate:
    made = Generate()
    made._conversations = Conversations(ChatFiles({"default": TEMPLATE}))
    return made


def asked(*tools: dict[str, Any]) -> dict[str, Any]:
    return {"messages": USER, "tools": list(tools), "tool_choice": "required"}


def test_a_forced_text_is_begun_and_held_to_the_schema():
    parameters = resolve(GENERATE, {"json_schema": '{"type": "null"}', "temperature": 0})
    tokenizer = Steered()
    plan = task().prepare(asked(tool("f")), parameters, tokenizer)
    free = task().prepare({**asked(tool("f")), "tool_choice": "auto"}, parameters, tokenizer)

    assert plan.head == "<tool_call>\n" and free.head == ""
    assert len(plan.prompt) == len(free.prompt) + 1  # its opening
    assert plan.sampling.json_schema is not None and '"const":"f"' in plan.sampling.json_schema

    def decode(token_ids: Sequence[int]) -> str:
        return '{"name": "f", "arguments": {}}'

    answer = task().finish(plan, [Generated((5,), "stop")], decode)
    assert answer.value == '<tool_call>\n{"name": "f", "arguments": {}}'


def test_runtimes_that_cannot_hold_a_text_to_a_schema_force_no_call():
    with pytest.raises(InvalidRequest, match="tool_choice cannot force a call with this version's"):
        task().prepare(asked(tool("f")), resolve(GENERATE, {}), WordTokenizer())


def test_parameters_that_are_no_usable_schema_are_refused_by_the_name_of_tools():
    hostile = tool("f", parameters={"type": "hostile"})
    with pytest.raises(InvalidRequest, match="^tools cannot be used to force a call: the JSON"):
        task().prepare(asked(hostile), resolve(GENERATE, {}), Steered())


def test_a_template_of_the_versions_own_takes_the_place_of_the_models(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text(TEMPLATE, encoding="utf-8")
    made = Generate(chat_template_file=str(path))
    made.read_model({"model": str(tmp_path)})
    plan = made.prepare(asked(tool("f")), resolve(GENERATE, {}), Steered())

    assert plan.head == "<tool_call>\n"
