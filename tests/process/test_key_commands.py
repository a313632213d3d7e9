"""`python -m app.cli keys`, as its own process, in a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cli(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        settings = {"DATA_DIR": "data", "LOG_LEVEL": "error", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            cwd=tmp_path,
            env=os.environ | settings,
            capture_output=True,
            text=True,
        )

    return run


def test_a_key_is_made_shown_once_rotated_and_revoked(cli):
    made = cli("keys", "create", "app", "--requests-per-minute", "60", "--expires", "90d")
    assert made.returncode == 0, made.stderr
    assert re.fullmatch(r"sk-usr-[0-9A-Za-z]{49}\n", made.stdout), "nothing but the key on stdout"
    assert made.stdout.strip() not in made.stderr
    rotated = cli("keys", "rotate", "app")
    assert rotated.stdout != made.stdout and rotated.returncode == 0
    listed = cli("keys", "list").stdout
    assert "requests_per_minute=60" in listed and rotated.stdout.strip()[-4:] in listed
    assert not re.search(r"sk-usr-[0-9A-Za-z]{5}", listed)
    assert cli("keys", "revoke", "app").returncode == 0
    assert "revoked" in cli("keys", "list").stdout


def test_what_is_wrong_is_one_line(cli):
    wrong = cli("keys", "create", "app", "--scope", "root")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr.startswith("error: scopes: 'root' is unknown")
    assert cli("keys", "revoke", "nobody").stderr == "error: there is no key 'nobody'\n"
