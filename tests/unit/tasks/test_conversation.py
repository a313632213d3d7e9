"""What callers send as a conversation, and what templates get to see of it."""

import json
import struct

import pytest

from app.core.errors import InputTooLong, InvalidRequest
from app.tasks.catalogue import task_info
from app.tasks.chat_files import ChatFiles, read_chat_files
from app.tasks.conversation import Conversations
from app.tasks.generate import Generate
from tests.fakes import WordTokenizer

SHOWS = "{{ messages | tojson }}"
KNOWS_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + SHOWS
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def seen(messages, source=SHOWS, **more):
    prompt = Conversations(ChatFiles({"default": source})).prompt({"messages": messages, **more})
    return json.loads(prompt)


def refused(given, source=SHOWS):
    with pytest.raises(InvalidRequest) as refusal:
        Conversations(ChatFiles({"default": source})).prompt(given)
    return str(refusal.value)


def test_text_parts_become_one_text_and_developers_speak_as_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert seen([{"role": "developer", "content": parts}, {"role": "user", "content": "c"}]) == [
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": "c"},
    ]


def test_developers_stay_where_the_template_knows_them():
    source = "{# developer #}" + SHOWS
    assert seen([{"role": "developer", "content": "a"}], source)[0]["role"] == "developer"


def test_arguments_of_calls_reach_the_template_as_objects():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "1"},
    ]
    first, second = seen(messages)
    assert first["content"] == "" and first["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert second == {"role": "tool", "content": "2", "tool_call_id": "1"}


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (None, "messages must be a list of 1 to 2048"),
        ([], "messages must be a list of 1 to 2048"),
        (["a"], "messages.0 must be an object"),
        ([{"role": "robot", "content": "a"}], "messages.0.role must be one of: system"),
        ([{"role": "user"}], "messages.0.content must be a text"),
        ([{"role": "user", "content": []}], "messages.0.content must be a text"),
        ([{"role": "user", "content": "a\0"}], "messages.0.content holds the character U+0000"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "messages.0.content.0 has the type 'image_url'; the model takes text only",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            "messages.0.tool_calls.0.function.arguments must be a JSON object",
        ),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages.0.tool_calls.0.function must have"),
    ],
)
def test_what_is_wrong_is_named(messages, told: str):
    assert told in refused({"messages": messages})


def test_tools_need_a_template_that_knows_them():
    user = [{"role": "user", "content": "a"}]
    assert "tools is not supported" in refused({"messages": user, "tools": [TOOL]})
    prompt = Conversations(ChatFiles({"default": KNOWS_TOOLS})).prompt(
        {"messages": user, "tools": [TOOL]}
    )
    assert prompt.startswith(json.dumps([TOOL]))
    told = refused({"messages": user, "tools": [{"type": "web_search"}]}, KNOWS_TOOLS)
    assert told.startswith("tools.0 must have the type")


def test_a_template_of_its_own_for_tools_is_taken():
    files = ChatFiles({"default": "plain", "tool_use": "{% if tools %}tools{% endif %}"})
    user = [{"role": "user", "content": "a"}]
    assert Conversations(files).prompt({"messages": user}) == "plain"
    assert Conversations(files).prompt({"messages": user, "tools": [TOOL]}) == "tools"


def test_models_without_a_template_do_not_chat():
    with pytest.raises(InvalidRequest, match="it has no chat template"):
        Conversations(ChatFiles()).prompt({"messages": [{"role": "user", "content": "a"}]})


def test_unknown_switches_and_fields_are_refused():
    user = [{"role": "user", "content": "a"}]
    told = refused({"messages": user, "chat_template_kwargs": {"think": True}})
    assert told.startswith("chat_template_kwargs.think is unknown")
    assert refused({"massages": user}).startswith("inputs.massages is unknown")


def test_templates_are_found_in_folders(tmp_path):
    config = {
        "chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}],
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
        "pad_token": None,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    expected = {"bos_token": "<s>", "eos_token": "</s>"}
    assert read_chat_files(tmp_path) == ChatFiles({"default": "a", "rag": "b"}, expected)
    (tmp_path / "chat_template.json").write_text('{"chat_template": "c"}')
    assert read_chat_files(tmp_path).templates == {"default": "c"}
    (tmp_path / "chat_template.jinja").write_text("d")
    assert read_chat_files(tmp_path).templates == {"default": "d"}


def gguf(*entries: bytes, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(entries)) + b"".join(entries)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_templates_are_found_in_the_head_of_a_gguf(tmp_path):
    words = struct.pack("<IIQ", 9, 8, 2) + text("<s>") + text("</s>")
    entries = (
        text("general.x") + struct.pack("<If", 6, 0.5),
        text("a.list") + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3),
        text("tokenizer.ggml.tokens") + words,
        text("tokenizer.ggml.bos_token_id") + struct.pack("<II", 4, 0),
        text("tokenizer.ggml.eos_token_id") + struct.pack("<II", 4, 7),
        text("tokenizer.chat_template") + struct.pack("<I", 8) + text("a"),
        text("tokenizer.chat_template.tool_use") + struct.pack("<I", 8) + text("b"),
    )
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(*entries))
    found = read_chat_files(path)
    assert found == ChatFiles({"default": "a", "tool_use": "b"}, {"bos_token": "<s>"})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"GGML" + b"\0" * 20,
        gguf(version=9),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
        gguf(struct.pack("<Q", 2**60)),
        gguf(text("a") + struct.pack("<I", 77)),
        gguf(text("a") + struct.pack("<IIQ", 9, 4, 2**60)),
        gguf(text("a") + struct.pack("<IIQ", 9, 9, 1) * 9),
    ],
)
def test_a_broken_head_costs_the_chat_and_not_the_model(tmp_path, content: bytes):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        read_chat_files(path)
    with pytest.raises(InvalidRequest, match="its chat template is broken"):
        Conversations.of_model(path).prompt({"messages": [{"role": "user", "content": "a"}]})


class MarksTexts(WordTokenizer):
    """Puts a mark in front of every text, as tokenizers of Llama's kind do."""

    def encode(self, texts):
        return super().encode([f"<s> {text}" for text in texts])


def chatting(tmp_path, template: str) -> Generate:
    (tmp_path / "chat_template.jinja").write_text(template)
    task = Generate()
    task.read_model({"model": str(tmp_path)})
    return task


def parameters(**given):
    declared = task_info("generate", "tokens").parameters
    return {parameter.name: parameter.default for parameter in declared} | given


def test_a_conversation_is_not_marked_twice(tmp_path):
    task, tokenizer = chatting(tmp_path, "<s> {{ messages[0].content }}"), MarksTexts()
    talk = {"messages": [{"role": "user", "content": "one two"}]}
    plan = task.prepare(talk, parameters(), tokenizer)
    assert tokenizer.decode(plan.prompt) == "<s> one two"
    assert tokenizer.decode(task.prepare("one", parameters(), tokenizer).prompt) == "<s> one"


def test_answers_of_a_conversation_may_be_long(tmp_path):
    task, tokenizer = chatting(tmp_path, "{{ messages[0].content }}"), WordTokenizer(5000)
    talk = {"messages": [{"role": "user", "content": "one two"}]}
    assert task.prepare(talk, parameters(), tokenizer).sampling.max_new_tokens == 1024
    assert task.prepare("one", parameters(), tokenizer).sampling.max_new_tokens == 50
    small = WordTokenizer(100)
    assert task.prepare(talk, parameters(), small).sampling.max_new_tokens == 98
    with pytest.raises(InputTooLong):
        task.prepare(talk, parameters(max_new_tokens=99), small)
