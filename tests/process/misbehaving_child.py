"""`python -m tests.process.misbehaving_child FD`: a worker that knows the misbehaving runtimes."""

import sys

from app.runtimes.catalogue import RUNTIMES
from app.workers import child
from tests.process import misbehaving

RUNTIMES.update(
    (name, dict.fromkeys(("vectors", "tokens"), f"{misbehaving.__name__}:{name}"))
    for name, value in vars(misbehaving).items()
    if isinstance(value, type) and value.__module__ == misbehaving.__name__
)

if __name__ == "__main__":
    sys.exit(child.main())
