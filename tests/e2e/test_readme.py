"""The README's own curl lines, as they stand there, with the real curl; and its JSON parses."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
ANSWERS = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
CURLS = [
    line for block in BLOCKS if "curl" in block for line in re.split(r"\n(?=curl )", block.strip())
]


def test_the_readme_shows_every_route():
    routes = {re.findall(r"localhost:8000(/[a-z/]*)", line)[0] for line in CURLS}
    assert routes == {
        "/infer",
        "/infer/batch",
        "/jobs",
        "/models",
        "/health",
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/metrics",
    }


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("line", CURLS, ids=lambda line: line.split("localhost:8000")[1][:14])
def test_each_curl_line_of_the_readme_is_answered(server, line):
    line = line.replace("http://localhost:8000", server.url).replace("curl", "curl -sSf", 1)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("{", "#"))


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer[:30])
def test_each_answer_in_the_readme_is_json(answer):
    json.loads(answer)
