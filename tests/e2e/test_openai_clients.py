"""OpenAI's clients against a whole server, and the set-ups that the documentation shows."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.serving import ROOT, ServerProcess
from tests.e2e.tools import catalog_with_tools
from tests.processes import until

DOCUMENT = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
CURLS = [
    block.strip()
    for block in re.findall(r"```bash\n(.*?)```", DOCUMENT, re.DOTALL)
    if "localhost:8000/v1" in block
]
JAVASCRIPT = os.environ.get("OPENAI_JS", "")  # a folder whose node_modules have `openai`
LEAST_CALLS = 40


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The embedded models, and one that knows tools."""
    folder = tmp_path_factory.mktemp("tools")
    served = ServerProcess(folder, MODEL_CATALOG=catalog_with_tools(folder))
    try:
        served.until_ready()
        yield served
    finally:
        status = served.end()
    assert (status, served.other_lines) == (0, [])


@pytest_asyncio.fixture(params=["sync", "async"])
async def client(request: pytest.FixtureRequest, served: ServerProcess) -> AsyncIterator[Any]:
    openai = pytest.importorskip("openai")
    where: dict[str, Any] = {"base_url": f"{served.url}/v1", "api_key": "none", "max_retries": 0}
    if request.param == "sync":
        with openai.OpenAI(**where) as client:
            yield client
    else:
        async with openai.AsyncOpenAI(**where) as client:
            yield client


async def test_the_official_client_finds_what_it_expects(client: Any):
    from tests.e2e.openai_scenario import whole_scenario

    assert await whole_scenario(client) >= LEAST_CALLS


async def test_a_client_that_leaves_a_stream_frees_its_place(served: ServerProcess, client: Any):
    from tests.e2e.openai_talk import COLOURS, Talk, got

    stream = await Talk(client).chat(COLOURS, stream=True, max_tokens=1500, temperature=1)
    await got(anext(stream) if hasattr(stream, "__aiter__") else next(iter(stream)))
    await asyncio.to_thread(until, lambda: served.unanswered("generator") == 1, "it runs", 10)
    await got(stream.close())
    await asyncio.to_thread(until, lambda: served.unanswered("generator") == 0, "it is gone", 10)


def test_langchain_works(served: ServerProcess):
    langchain = pytest.importorskip("langchain_openai")
    where = {"base_url": f"{served.url}/v1", "api_key": "none", "max_retries": 0}
    chat = langchain.ChatOpenAI(model="generator", temperature=0, max_tokens=20, **where)
    answer = chat.invoke("What is the capital of France?")
    assert "Paris" in answer.content
    assert (
        answer.usage_metadata["output_tokens"]
        == answer.response_metadata["token_usage"]["completion_tokens"]
    )
    pieces = [piece.content for piece in chat.stream("What is the capital of France?")]
    assert "".join(pieces) == answer.content and len(pieces) > 2
    told = [("system", "You are a pirate."), ("human", "Say hello.")]
    assert all(answer.content for answer in chat.batch([told, told]))
    embedder = langchain.OpenAIEmbeddings(
        model="embedder", check_embedding_ctx_length=False, **where
    )
    assert len(embedder.embed_query("a cat")) == 384
    assert len(embedder.embed_documents(["a cat", "a dog"])) == 2


def test_langchain_calls_tools_and_fits_schemas(served: ServerProcess):
    langchain = pytest.importorskip("langchain_openai")
    from tests.e2e.openai_steered import ASKED, CITY, TOOLS

    where = {"base_url": f"{served.url}/v1", "api_key": "none", "max_retries": 0}
    chat = langchain.ChatOpenAI(model="generator:tools", temperature=0, max_tokens=40, **where)
    for choice in ("weather", "required"):
        answer = chat.bind_tools(TOOLS[:1], tool_choice=choice).invoke(ASKED)
        assert [call["name"] for call in answer.tool_calls] == ["weather"]
    schema = {"title": "place", "description": "A city", **CITY}
    for method in ("json_schema", "function_calling"):
        made = chat.with_structured_output(schema, method=method).invoke(ASKED)
        assert made["city"] in ("Oslo", "Rome")
    told = chat.bind(logprobs=True, max_tokens=5).invoke(ASKED)
    assert len(told.response_metadata["logprobs"]["content"]) == 5
    usages = [piece.usage_metadata for piece in chat.stream(ASKED, stream_usage=True, max_tokens=5)]
    assert [usage["output_tokens"] for usage in usages if usage] == [5]


def test_llamaindex_works(served: ServerProcess):
    likes = pytest.importorskip("llama_index.llms.openai_like")
    model = likes.OpenAILike(
        model="generator",
        api_base=f"{served.url}/v1",
        api_key="none",
        is_chat_model=True,
        temperature=0,
        max_tokens=20,
    )
    assert "Paris" in model.complete("What is the capital of France?").text


@pytest.mark.skipif(not JAVASCRIPT or not shutil.which("node"), reason="run by `make test-js`")
def test_the_client_for_javascript_works(served: ServerProcess, tmp_path: Path):
    script = tmp_path / "scenario.mjs"
    shutil.copy(Path(__file__).with_name("openai_scenario.mjs"), script)
    (tmp_path / "node_modules").symlink_to(Path(JAVASCRIPT) / "node_modules")
    done = subprocess.run(
        ["node", str(script), f"{served.url}/v1"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= LEAST_CALLS


@pytest.mark.parametrize("command", CURLS, ids=lambda each: each.partition("/v1/")[2].split()[0])
def test_documented_commands_work(served: ServerProcess, command: str):
    command = command.replace("http://localhost:8000", served.url)
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if "data: " in done.stdout:
        assert done.stdout.rstrip().endswith("data: [DONE]")
    else:
        assert json.loads(done.stdout).get("error") is None


def test_there_are_documented_commands():
    assert len(CURLS) >= 5
