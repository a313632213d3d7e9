"""Any order of submissions, claims, ends, deaths, cancellations and sweeps: no job is lost, none
ends twice, and whoever lost a lease changes nothing."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import Connection, create_engine, select

from app.core.types import Priority
from app.jobs import sql_queue, sql_submissions, sql_sweeps
from app.jobs.order import Turns
from app.jobs.status import Claimed, Ending, JobState, Problem
from app.jobs.store import Limits
from app.jobs.tables import JOBS, METADATA, RESULTS
from tests.contract.job_bench import DONE, LEASE_S, a_job

LIMITS = Limits(max_attempts=3, keep_s=1e9)
NUMBERS = st.integers(0, 10**6)


@dataclass
class Lease:
    """What somebody thinks he holds."""

    job: Claimed
    until: float


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = create_engine("sqlite://")
        self.connection: Connection = self.engine.connect()
        METADATA.create_all(self.connection)
        self.turns = Turns()
        self.now = 1000.0
        self.submitted: set[str] = set()
        self.leases: list[Lease] = []
        self.ended: dict[str, JobState] = {}

    def states(self) -> dict[str, JobState]:
        rows = self.connection.execute(select(JOBS.c.id, JOBS.c.state))
        return {row.id: JobState(row.state) for row in rows}

    def some_lease(self, number: int) -> Lease | None:
        return self.leases.pop(number % len(self.leases)) if self.leases else None

    @rule(
        count=st.integers(1, 4),
        caller=st.sampled_from("ab"),
        priority=st.sampled_from(list(Priority)),
        timeout_s=st.sampled_from([5.0, 100.0, 1e6]),
    )
    def submit(self, count, caller, priority, timeout_s):
        jobs = [a_job(caller=caller, priority=priority, timeout_s=timeout_s) for _ in range(count)]
        sql_submissions.add(self.connection, jobs, self.now)
        self.submitted |= {job.id for job in jobs}

    @rule(owner=st.sampled_from(["x", "y"]), count=st.integers(1, 5))
    def claim(self, owner, count):
        waiting = {id for id, state in self.states().items() if state is JobState.QUEUED}
        claimed = sql_queue.claim(self.connection, self.turns, owner, count, LEASE_S, self.now)
        assert len({job.id for job in claimed}) == len(claimed) <= count
        assert len(claimed) >= min(count, len(waiting))
        held = {lease.job.id: lease for lease in self.leases if lease.until > self.now}
        assert all(held[job.id].job.fence < job.fence for job in claimed if job.id in held)
        self.leases += [Lease(job, self.now + LEASE_S) for job in claimed]

    @rule(number=NUMBERS, is_success=st.booleans())
    def finish(self, number, is_success):
        if (lease := self.some_lease(number)) is None:
            return
        ending = DONE if is_success else Ending(JobState.FAILED, problem=Problem("x", "y"))
        was = self.ended.get(lease.job.id)
        is_ours = sql_queue.finish(
            self.connection, lease.job, ending, now=self.now, keep_s=1e9, in_file=False
        )
        assert not (is_ours and was)
        self.leases.append(lease)  # he may try again

    @rule(number=NUMBERS)
    def give_back(self, number):
        if (lease := self.some_lease(number)) is not None:
            sql_queue.release(self.connection, {lease.job.id: lease.job.fence})

    @rule(number=NUMBERS, seconds=st.floats(0, 30))
    def put_off(self, number, seconds):
        if (lease := self.some_lease(number)) is not None:
            why = Problem("away", "away")
            sql_queue.delay(self.connection, lease.job, self.now + seconds, why)

    @rule()
    def renew(self):
        held = {lease.job.id: lease.job.fence for lease in self.leases}
        told = sql_queue.renew(self.connection, held, LEASE_S, self.now)
        running = {id for id, state in self.states().items() if state is JobState.RUNNING}
        assert set(held) - told.lost <= running
        self.leases = [
            Lease(lease.job, self.now + LEASE_S)
            for lease in self.leases
            if lease.job.id not in told.lost and held[lease.job.id] == lease.job.fence
        ]

    @rule(number=NUMBERS)
    def cancel(self, number):
        if self.submitted:
            job_id = sorted(self.submitted)[number % len(self.submitted)]
            for caller in "ab":
                sql_sweeps.cancel(self.connection, caller, job_id, self.now, LIMITS)

    @rule(owner=st.sampled_from(["x", "y"]))
    def die(self, owner):
        is_his = JOBS.c.owner == owner
        sql_sweeps.take_back(self.connection, is_his, self.now, LIMITS)

    @rule(seconds=st.floats(-20, 60))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def sweep(self):
        sql_sweeps.sweep(self.connection, self.now, LIMITS)

    @invariant()
    def no_job_is_lost_and_none_ends_twice(self):
        now = self.states()
        assert set(now) == self.submitted
        for job_id, state in now.items():
            if job_id in self.ended:
                assert state is self.ended[job_id]
            if state.is_final:
                self.ended[job_id] = state
        results = set(self.connection.execute(select(RESULTS.c.job_id)).scalars())
        assert results == {id for id, state in now.items() if state is JobState.SUCCEEDED}
        rows = self.connection.execute(select(JOBS.c.state, JOBS.c.owner, JOBS.c.attempts))
        assert all((row.state == "running") == (row.owner is not None) for row in rows)

    def teardown(self):
        """Whoever is left runs all that is left to its end."""
        for _ in range(8):
            self.now += 1e3
            sql_sweeps.sweep(self.connection, self.now, LIMITS)
            for job in sql_queue.claim(self.connection, self.turns, "z", 1000, 1e9, self.now):
                assert sql_queue.finish(
                    self.connection, job, DONE, now=self.now, keep_s=1e9, in_file=False
                )
        assert all(state.is_final for state in self.states().values())
        self.connection.close()
        self.engine.dispose()


QueueMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestQueue = QueueMachine.TestCase
