"""`python -m benchmarks.chaos_worker FD`: a worker whose runtimes are those of fragile.py."""

import sys

from app.runtimes.catalogue import RUNTIMES
from app.workers import child

RUNTIMES["openvino_encoder"]["vectors"] = "benchmarks.fragile:FragileEncoder"
RUNTIMES["openvino_llm"]["tokens"] = "benchmarks.fragile:FragileGenerator"

if __name__ == "__main__":
    sys.exit(child.main())
