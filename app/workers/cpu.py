"""Carries the orders of the CPU budget's book to the workers it concerns."""

from collections.abc import Callable, Iterable

from app.scheduling.cpu_lease import CpuLeases, Grant, Order
from app.workers.handle import WorkerHandle
from app.workers.messages import GrantThreads, RecallThreads


class CpuBudget:
    """One per server. `on_change` is told (budget, leased) after every change."""

    def __init__(self, threads: int, on_change: Callable[[int, int], None]) -> None:
        self._leases = CpuLeases(threads)
        self._on_change = on_change
        self._handles: dict[str, WorkerHandle] = {}
        on_change(threads, 0)

    @property
    def threads(self) -> int:
        return self._leases.budget

    def ask(self, handle: WorkerHandle, threads: int) -> None:
        self._handles[_holder(handle)] = handle
        self._carry_out(self._leases.ask(_holder(handle), threads))

    def give_back(self, handle: WorkerHandle, threads: int) -> None:
        self._carry_out(self._leases.give_back(_holder(handle), threads))

    def forget(self, handle: WorkerHandle) -> None:
        """The worker is dead: its threads are free."""
        self._handles.pop(_holder(handle), None)
        self._carry_out(self._leases.forget(_holder(handle)))

    def _carry_out(self, orders: Iterable[Order]) -> None:
        for order in orders:
            handle = self._handles[order.holder]
            if isinstance(order, Grant):
                handle.send(GrantThreads(order.threads))
            else:
                handle.send(RecallThreads())
        self._on_change(self._leases.budget, self._leases.in_use)


def _holder(handle: WorkerHandle) -> str:
    return f"{handle.name}/{handle.pid}"
