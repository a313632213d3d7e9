"""Whose fault a death was, from what is known of it."""

import signal
from dataclasses import replace

import pytest

from app.workers.deaths import Death, oom_counters, oom_kills

KILLED = Death(-signal.SIGKILL, False, (3, 1), (3, 1), resident_bytes=10, limit_bytes=100)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"])
def test_signal_of_people_that_we_did_not_send_is_from_outside(name):
    assert replace(KILLED, status=-signal.Signals[name]).is_from_outside


@pytest.mark.parametrize(
    "what",
    [
        {"status": -signal.SIGSEGV},
        {"status": -signal.SIGABRT},
        {"status": 7},
        {"status": 9},
        {"status": 0},
        {"was_ours": True},
        {"oom_kills_after": (4, 1)},
        {"oom_kills_after": (3, 2)},
        {"resident_bytes": 81},
    ],
    ids=str,
)
def test_any_other_death_may_be_the_doing_of_what_ran(what):
    assert not replace(KILLED, **what).is_from_outside


def test_memory_without_a_limit_is_never_near_it():
    assert replace(KILLED, resident_bytes=10**12, limit_bytes=0).is_from_outside


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/pod/a", "pod/a/memory.events"),
        ("0::/", "memory.events"),
        ("5:cpu,memory:/pod", "memory/pod/memory.oom_control"),
    ],
)
def test_counters_of_the_machine_and_of_the_group_are_read(tmp_path, line, file):
    (tmp_path / "42").mkdir()
    (tmp_path / "42/cgroup").write_text(f"9:pids:/elsewhere\n{line}\n")
    (tmp_path / "vmstat").write_text("pgfault 1\noom_kill 7\n")
    events = tmp_path / "groups" / file
    events.parent.mkdir(parents=True)
    events.write_text("oom 5\noom_kill 2\noom_group_kill 9\n")
    counters = oom_counters(42, tmp_path, tmp_path / "groups")
    assert oom_kills(counters) == (7, 2)
    events.unlink()
    assert oom_kills(counters) == (7, -1)


def test_machine_that_counts_nothing_has_no_counters(tmp_path):
    assert oom_counters(42, tmp_path, tmp_path) == ()
