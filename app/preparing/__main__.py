"""`python -m app.preparing`: one PrepareJob on standard input, news and a Manifest on output."""

import os
import sys

from app.core.errands import serve_errand
from app.preparing.job import PrepareJob
from app.preparing.prepare import prepare

# Read by the libraries when they are imported, which is later: nothing may be fetched behind our
# back, and nothing drawn for people.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}


def main() -> int:
    os.environ.update(ENVIRONMENT)
    return serve_errand(PrepareJob, prepare)


if __name__ == "__main__":
    sys.exit(main())
