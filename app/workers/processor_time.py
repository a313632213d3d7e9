"""How much processor time a process has used, for the watchdog."""

import psutil


def processor_time_s(pid: int | None) -> float | None:
    """Of all its threads, in user and kernel mode; None when it is gone."""
    if pid is None:
        return None
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(used.user + used.system)
