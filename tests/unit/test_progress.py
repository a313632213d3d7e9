import pytest
from structlog.testing import capture_logs

from app.models.progress import LogProgress


def percents(lines):
    return [line.get("percent") for line in lines if line["event"] == "fetching"]


def test_log_has_a_line_for_the_start_each_quarter_and_the_end():
    with capture_logs() as lines, LogProgress().transfer("pkg==1.0") as moved:
        for done in range(0, 101):
            moved(done, 100)
    assert percents(lines) == [0, 25, 50, 75]
    assert lines[-1]["event"] == "fetched"
    assert lines[-1]["total_bytes"] == 100


def test_quarters_that_pass_at_once_are_one_line():
    with capture_logs() as lines, LogProgress().transfer("pkg==1.0") as moved:
        moved(80, 100)
    assert percents(lines) == [0, 75]


def test_unknown_total_is_no_reason_to_fail():
    with capture_logs() as lines, LogProgress().transfer("pkg==1.0") as moved:
        moved(80, 0)
    assert [line["event"] for line in lines] == ["fetching", "fetched"]


def test_transfer_that_fails_is_never_called_fetched():
    with capture_logs() as lines, pytest.raises(OSError):
        with LogProgress().transfer("pkg==1.0"):
            raise OSError
    assert [line["event"] for line in lines] == ["fetching"]
