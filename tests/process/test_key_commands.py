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


def test_a_key_is_changed_and_told_what_was(cli):
    cli("keys", "create", "app", "--requests-per-minute", "60", "--model", "sentiment")
    changed = cli(
        *("keys", "update", "app", "--name", "shop", "--all-models", "--scope", "infer"),
        *("--requests-per-minute", "none", "--monthly-budget", "2.50", "--max-priority", "batch"),
    )
    assert (changed.returncode, changed.stdout) == (0, "")
    assert changed.stderr.splitlines() == [
        "name: app -> shop",
        "scopes: infer,jobs,models:read -> infer",
        "models: sentiment -> all",
        "max_priority: interactive -> batch",
        "limits.requests_per_minute: 60 -> none",
        "limits.monthly_budget: none -> 2.5",
        "shop is changed; running servers see it within a second.",
    ]
    assert "monthly_budget=2.5" in cli("keys", "list").stdout
    cli("keys", "update", "shop", "--expires", "2126-01-01", "--model", "embedder")
    assert "embedder  2126-01-01T00:00:00Z" in cli("keys", "list").stdout
    never = cli("keys", "update", "shop", "--expires", "never")
    assert never.stderr.startswith("expires_at: 2126-01-01T00:00:00Z -> never\n")
    again = cli("keys", "update", "shop", "--expires", "never")
    assert again.stderr == "shop is so already.\n" and again.returncode == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "nothing is to be changed"),
        (("--scope", "root"), "scopes: 'root' is unknown"),
        (("--expires", "soon"), "--expires is 'soon'"),
        (("--max-priority", "urgent"), "max_priority is 'urgent'"),
        (("--daily-tokens", "0"), "--daily-tokens: '0' is no whole number above 0"),
        (("--monthly-budget", "much"), "--monthly-budget: 'much' is no amount of money"),
        (("--model", "a", "--all-models"), "not allowed with"),
    ],
    ids=lambda value: "-".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_a_wrong_change_is_refused_by_the_name_of_the_option(cli, options, told):
    cli("keys", "create", "app")
    wrong = cli("keys", "update", "app", *options)
    assert wrong.returncode == 2 and wrong.stdout == "" and told in wrong.stderr


def test_what_is_wrong_is_one_line(cli):
    wrong = cli("keys", "create", "app", "--scope", "root")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr.startswith("error: scopes: 'root' is unknown")
    assert cli("keys", "update", "nobody", "--name", "x").returncode == 2
    assert cli("keys", "revoke", "nobody").stderr == "error: there is no key 'nobody'\n"
