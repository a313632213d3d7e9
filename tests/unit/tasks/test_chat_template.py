"""Templates render as transformers renders them, and cannot hang or fill the process."""

import pytest

from app.core.errors import CannotLoad, InvalidRequest
from app.tasks import chat_template
from app.tasks.chat_template import ChatTemplate

USER = [{"role": "user", "content": "Hi <b> é"}]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{{ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def rendered(source, messages=None, tools=None, options=None, **tokens):
    return ChatTemplate(source, tokens).render(messages or USER, tools, options or {})


def test_conversation_becomes_the_prompt():
    expected = "<|im_start|>user\nHi <b> é<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(CHATML) == expected


def test_blocks_take_their_line_breaks_with_them():
    assert rendered("  {% if true %}\na\n  {% endif %}\nb") == "a\nb"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}|{{ eos_token }}", "<s>|"),
        ("{{ {'a': 'é<', 'b': none} | tojson }}", '{"a": "é<", "b": null}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% generation %}a{% endgeneration %}", "a"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% for i in [1, 2] %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "2"),
        ("{{ 'a' ~ 1 ~ none }}", "a1None"),
        ("{{ messages | map(attribute='role') | join(', ') }}", "user"),
        ("{{ 'a-b' | replace('-', '+') }}", "a+b"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}", "A1"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(f(1)) }}", "[[1]]"),
        ("{{ messages[0].content.split(' ')[0] }}", "Hi"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)
def test_what_templates_use_is_there(source: str, expected: str):
    assert rendered(source, bos_token="<s>") == expected


def test_tools_and_switches_reach_the_template():
    source = "{{ tools | tojson }}{{ enable_thinking }}"
    assert rendered(source, tools=[{"a": 1}], options={"enable_thinking": False}) == (
        '[{"a": 1}]False'
    )
    template = ChatTemplate(source, {})
    assert template.knows_tools and "enable_thinking" in template.names
    assert not ChatTemplate(CHATML, {}).knows_tools


def test_switches_cannot_replace_the_conversation():
    assert rendered("{{ messages | length }}", options={"messages": []}) == "1"


def test_what_the_template_says_against_it_is_told():
    with pytest.raises(InvalidRequest, match="chat template says: roles must alternate"):
        rendered("{{ raise_exception('roles must alternate') }}")


DOUBLING = "{%% set ns = namespace(x='ab') %%}{%% for i in range(99) %%}%s{%% endfor %%}"
HOSTILE = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "calls in calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}"
    "{{ f(60) }}",
    "endless calls": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "joined with itself": DOUBLING % "{% set ns.x = ns.x ~ ns.x %}",
    "added to itself": DOUBLING % "{% set ns.x = ns.x + ns.x %}",
    "written twice": DOUBLING % "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
    "listed and joined": DOUBLING % "{% set ns.x = [ns.x, ns.x] | join %}",
    "replaced by more": DOUBLING % "{% set ns.x = ns.x | replace('a', 'aaaaaaaa') %}",
    "lists of themselves": DOUBLING % "{% set ns.x = [ns.x, ns.x] %}" + "{{ ns.x | tojson }}",
    "times a lot": "{{ 'a' * 10 ** 12 }}",
    "a list times a lot": "{{ [0] * 10 ** 12 }}",
    "huge numbers": "{{ 10 ** (10 ** 10) }}",
    "padded": "{{ 'a'.ljust(10 ** 12) }}",
    "padded by a format": "{{ '%999999999999d' % 1 }}",
    "padded by a method": "{{ '{:999999999999}'.format(1) }}",
    "much output": "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "a way out": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "a way out by a filter": "{{ messages | attr('__class__') }}{{ ''.__class__.__mro__.x }}",
    "change of what was given": "{{ messages.append(1) }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile_templates_are_stopped(source: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chat_template, "MAX_RENDER_S", 0.05)
    with pytest.raises(InvalidRequest, match="chat template"):
        rendered(source)


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ x | center(9) }}", "{{ a }" * 9 + "{%", "(" * 9999, "{{" + "(" * 999]
)
def test_templates_that_cannot_be_read_are_refused(source: str):
    if source.startswith("(("):
        assert rendered(source) == source  # plain text
        return
    with pytest.raises(CannotLoad, match="chat template cannot be read"):
        ChatTemplate(source, {})


def test_templates_that_are_too_large_are_refused():
    with pytest.raises(CannotLoad, match="more than 300000 characters"):
        ChatTemplate("a" * 300_001, {})
