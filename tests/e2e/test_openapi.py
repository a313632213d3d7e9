"""The server answers as its OpenAPI document says, whatever Schemathesis makes up of it.

No 5xx, no status, media type or body that is not declared; what fits the document is not refused as
malformed, and what does not fit is. `openapi/` says what is tuned and why.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from app.keys.key import Scope
from tests.e2e.conftest import Start
from tests.e2e.openapi.covered import covered, documented, table
from tests.e2e.serving import ServerProcess, cli, environment

HERE = Path(__file__).parent / "openapi"
CONFIG = HERE / "schemathesis.toml"
RUN = (sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run")
MANY_S = 900
BATCH_LINES = 20_000  # a minute or two, unless somebody cancels it
ORDERS = "/v2/repository/models/"  # no server takes them unless it is told to
OF_ONE = ("PATCH", "DELETE")  # what they name is seldom there, or there no longer
LINE_CHARS = 2000  # a made-up request may be long, and must not push the others out

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed"
)


def key_for_everything(folder: Path) -> tuple[str, str]:
    """Options: with it, the document's promise holds that nobody is answered without."""
    scopes = [option for scope in Scope for option in ("--scope", scope.value)]
    secret = cli(folder, "keys", "create", "schemathesis", *scopes)
    return "--header", f"Authorization: Bearer {secret}"


def batch_under_way(server: ServerProcess, authorization: str) -> dict[str, str]:
    """Variables with its id, and its file's, for the hooks: nobody makes those up."""
    scheme, _, secret = authorization.partition(": ")[2].partition(" ")
    assert scheme == "Bearer"
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=secret)
    line = {"method": "POST", "url": "/v1/classify"}
    texts = (f"{number}: long enough for a while. " * 4 for number in range(BATCH_LINES))
    lines = (
        json.dumps({"custom_id": text[:40], **line, "body": {"model": "sentiment", "input": text}})
        for text in texts
    )
    file = client.files.create(file="\n".join(lines).encode(), purpose="batch")
    batch = client.post(
        "/batches",
        body={
            "input_file_id": file.id,
            "endpoint": line["url"],
            "completion_window": "24h",
        },
        cast_to=dict[str, Any],
    )
    return {"OPENAPI_FILE": file.id, "OPENAPI_BATCH": batch["id"]}


def findings(
    server: ServerProcess, folder: Path, *options: str, known: Mapping[str, str] | None = None
) -> str:
    """Empty, or what was found, with a curl line for each. known: variables for the hooks."""
    command = [*RUN, f"{server.url}/openapi.json", "--no-color", *options]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment() | dict(known or {}),
        capture_output=True,
        text=True,
        timeout=MANY_S,
    )
    assert " generated" in done.stdout, done.stdout + done.stderr
    told = [line.strip() for line in done.stdout.splitlines()]
    print(*(line for line in told if line.startswith("Seed:") or " generated" in line), sep="\n")
    if done.returncode == 0:
        return ""
    return "\n".join(line[:LINE_CHARS] for line in done.stdout.splitlines())[-20_000:]


def test_answers_are_as_the_document_says(start_server: Start, tmp_path: Path):
    """A few examples, the same each time."""
    key = key_for_everything(tmp_path)
    server = start_server()
    server.until_ready()
    phases = "--phases=examples,fuzzing,stateful"
    few = ("--generation-deterministic", "--max-examples=8", phases)
    assert not (found := findings(server, tmp_path, *key, *few)), found


@pytest.mark.slow
@pytest.mark.timeout(MANY_S)
def test_many_answers_are_as_the_document_says(start_server: Start, tmp_path: Path):
    """Boundaries of every schema, and examples at random; the output has the seed."""
    key = key_for_everything(tmp_path)
    server = start_server()
    server.until_ready()
    report = tmp_path / "report.ndjson"
    options = (*key, "--max-examples=150", "--report=ndjson")
    known = batch_under_way(server, key[1])
    found = findings(server, tmp_path, *options, f"--report-ndjson-path={report}", known=known)
    seen = covered(report)
    declared = documented(server.client.get("/openapi.json").json())
    print(f"\n{table(seen, declared)}")
    assert not found, found
    never = [each for each in declared if not any(200 <= status < 300 for status in seen[each])]
    of_many = [each for each in never if ORDERS not in each and not each.startswith(OF_ONE)]
    assert of_many == [], "answered by nothing but errors"


@pytest.mark.slow
def test_orders_to_load_and_unload_are_answered_as_the_document_says(
    start_server: Start, tmp_path: Path
):
    key = key_for_everything(tmp_path)
    server = start_server(MODEL_CONTROL="explicit")
    server.until_ready()
    orders = ("--include-path-regex=^/v2/repository", "--max-examples=40")
    assert not (found := findings(server, tmp_path, *key, *orders)), found
