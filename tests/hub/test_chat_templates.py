"""Prompts of conversations beside transformers', and templates of prepared checkpoints."""

from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.intel")

from tokenizers import Tokenizer, models  # noqa: E402

from app.tasks.chat_files import ChatFiles, read_chat_files  # noqa: E402
from app.tasks.conversation import Conversations  # noqa: E402
from tests.hub import checkpoints  # noqa: E402
from tests.hub.test_preparing import TOKENS, prepared  # noqa: E402

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore")]

PLAIN = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if loop.first and system %}
        {%- set content = '<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' ~ message['content'] %}
    {%- else %}
        {%- set content = message['content'] %}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + content | trim + ' [/INST]' }}
    {%- else %}
        {{- ' ' + content | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}
"""
WITH_TOOLS = """\
{%- macro shown(call) -%}
{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}
{%- endmacro %}
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n<tools>' }}
{%- for tool in tools %}
{{- '\\n' }}{{ tool | tojson }}
{%- endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}
{{- '<|im_start|>user' }}
{%- endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- continue %}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for tool_call in message.tool_calls or [] %}
{%- set call = tool_call.function %}
{{- '\\n<tool_call>\\n' + shown(call) + '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{%- generation %}{{- '<|im_start|>assistant\\n' }}{%- endgeneration %}
{%- endif %}
"""
SAID = "Grüße <b> & \\ \"'\n  {{ messages }}"
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": SAID},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Fürs Wetter, <here>.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Tromsø"}}}
USED: list[dict[str, Any]] = [
    {"role": "user", "content": "How is the weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "1"},
    {"role": "tool", "content": "2"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="a"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize(
    ("template", "messages", "tools"),
    [
        (PLAIN, TALK, None),
        (PLAIN, TALK[1:], None),
        (WITH_TOOLS, TALK, None),
        (WITH_TOOLS, USED, [TOOL]),
    ],
)
def test_prompts_are_those_of_transformers(
    tokenizer: Any, template: str, messages: list[dict[str, Any]], tools: Any
):
    expected = tokenizer.apply_chat_template(
        messages, tools, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    files = ChatFiles({"default": template}, {"bos_token": "<s>", "eos_token": "</s>"})
    assert Conversations(files).prompt({"messages": messages, "tools": tools}) == expected


def test_a_prepared_checkpoint_keeps_its_template(tmp_path: Path):
    source = checkpoints.tiny_gpt2(tmp_path / "in")
    (source / "chat_template.jinja").write_text(PLAIN, encoding="utf-8")
    manifest = prepared(source, tmp_path, **TOKENS)
    found = read_chat_files(tmp_path / "out" / manifest.files["model"])
    assert found.templates == {"default": PLAIN}
    assert found.tokens["eos_token"] == "<|endoftext|>"
