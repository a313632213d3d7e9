"""The server as it is, over workers that can be poisoned (chaos_worker)."""

import sys

from app.workers import handle

handle.WORKER_COMMAND = (sys.executable, "-m", "benchmarks.chaos_worker")  # before it is read

from app.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
