"""Settings: where they come from, what they refuse, and how they say so."""

import pytest
from pydantic import ValidationError

from app.core.config import Settings, default_model_store, load_settings
from app.core.cpus import usable_cpus
from app.core.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("no_settings")


def refusal(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    return str(refused.value)


def test_without_variables_the_products_defaults_hold():
    settings = load_settings()

    assert (settings.debug, settings.host, settings.port) == (False, "0.0.0.0", 8000)
    assert (settings.default_model, settings.max_batch_size) == ("summarizer", 8)
    assert settings.batch_timeout_ms == 100


def test_a_variable_is_read(monkeypatch):
    monkeypatch.setenv("MAX_BATCH_SIZE", "32")
    assert load_settings().max_batch_size == 32


def test_the_env_file_is_read_and_the_environment_wins_over_it(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("PORT=9001\nDEBUG=true\n", encoding="utf-8")
    monkeypatch.setenv("PORT", "9002")

    settings = load_settings()
    assert (settings.port, settings.debug) == (9002, True)


def test_variables_of_others_in_the_env_file_are_no_error(tmp_path):
    defaults = load_settings()
    (tmp_path / ".env").write_text("COMPOSE_PROJECT_NAME=mine\n", encoding="utf-8")
    assert load_settings() == defaults


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("HOST", ""),
        ("DEBUG", "perhaps"),
        ("DEFAULT_MODEL", ""),
        ("MAX_BATCH_SIZE", "0"),
        ("MAX_BATCH_SIZE", "1025"),
        ("MAX_BATCH_SIZE", "2.5"),
        ("BATCH_TIMEOUT_MS", "-0.1"),
        ("BATCH_TIMEOUT_MS", "nan"),
        ("BATCH_TIMEOUT_MS", "inf"),
        ("MODEL_PROFILE", "everything"),
        ("CPU_THREADS", "0"),
        ("MAX_QUEUE_ITEMS", "0"),
        ("MAX_REQUEST_ITEMS", "0"),
        ("MAX_TEXT_CHARS", "0"),
        ("MAX_BODY_BYTES", "1023"),
        ("MAX_HEADER_BYTES", "1023"),
        ("HEADER_TIMEOUT_S", "0"),
        ("BODY_TIMEOUT_S", "0"),
        ("KEEP_ALIVE_S", "0"),
        ("MAX_CONNECTIONS", "0"),
        ("WORKER_START_TIMEOUT_S", "0"),
        ("WORKER_MAX_RESTARTS", "-1"),
        ("SHUTDOWN_GRACE_S", "-1"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
    ],
    ids=lambda value: value or "empty",
)
def test_a_value_that_does_not_fit_is_refused_by_the_variables_name(monkeypatch, variable, value):
    assert refusal(monkeypatch, **{variable: value}).startswith(f"{variable}: ")


def test_every_wrong_variable_is_named_at_once(monkeypatch):
    text = refusal(monkeypatch, PORT="x", LOG_LEVEL="loud")
    assert "PORT: " in text
    assert "LOG_LEVEL: " in text


def test_a_request_that_no_queue_could_admit_is_refused_with_both_numbers(monkeypatch):
    text = refusal(monkeypatch, MAX_REQUEST_ITEMS="600", MAX_QUEUE_ITEMS="500")
    assert "MAX_REQUEST_ITEMS (600) must not exceed MAX_QUEUE_ITEMS (500)" in text


def test_a_request_as_large_as_the_queue_is_fine(monkeypatch):
    monkeypatch.setenv("MAX_REQUEST_ITEMS", "500")
    monkeypatch.setenv("MAX_QUEUE_ITEMS", "500")
    assert load_settings().max_request_items == 500


def test_settings_cannot_be_changed():
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


def test_the_model_store_follows_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_model_store() == tmp_path / "cache" / "ai-inference-backend"


def test_the_model_store_is_below_home_without_a_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_model_store() == tmp_path / ".cache" / "ai-inference-backend"


def test_every_further_setting_has_a_bound_and_a_description():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if field.annotation in (int, float):
            assert len(field.metadata) >= 2, f"{name} needs a lower and an upper bound"


@pytest.mark.parametrize(
    ("content", "expected"),
    [("100000 100000\n", 1), ("50000 100000\n", 1), ("max 100000\n", None), ("nonsense", None)],
    ids=["one", "half", "unlimited", "unreadable"],
)
def test_a_containers_cpu_quota_bounds_the_usable_cpus(tmp_path, content, expected):
    quota = tmp_path / "cpu.max"
    quota.write_text(content)
    everything = usable_cpus(tmp_path / "absent")
    assert usable_cpus(quota) == (expected or everything)
