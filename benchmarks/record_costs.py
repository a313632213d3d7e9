"""Record what batches of the embedded encoder cost on this machine, for the simulation.

    python -m benchmarks.record_costs [--rounds 5]

Calibration as the server's worker runs it (app/workers/calibration.py), several times; the round
of median pace is written to recorded_costs.json with the processor it comes from. Run it while
nothing else runs.
"""

import argparse
import contextlib
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import msgspec

from app.core.cpus import usable_cpus
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_encoder import OpenVinoEncoder
from app.workers.calibration import Calibration, load_calibrated
from benchmarks.harness import sentiment_files, warn_when_busy

PATH = Path(__file__).parent / "recorded_costs.json"
MAX_ROWS = 8  # MAX_BATCH_SIZE as it ships


class Recording(msgspec.Struct, frozen=True):
    """Costs and where they come from."""

    model: str
    cpu: str
    engine: str
    calibration: Calibration


def read_recording(path: Path = PATH) -> Recording:
    return msgspec.json.decode(path.read_bytes(), type=Recording)


def processor() -> str:
    """As Linux names it."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    facts = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }
    family = f"family {facts['cpu family']}, model {facts['model']}"
    vnni = " with AVX-512 VNNI" if "avx512_vnni" in facts["flags"].split() else ""
    return f"{usable_cpus()} virtual cores of an {facts['model name']} ({family}){vnni}"


def record() -> Calibration:
    """One calibration, from nothing."""
    spec, files = sentiment_files()

    def build(plan: StreamPlan) -> OpenVinoEncoder:
        return OpenVinoEncoder(files, plan=plan, **spec.runtime_options)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calibration.json"
        _, found = load_calibrated(build, path, usable_cpus(), MAX_ROWS, contextlib.nullcontext)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    warn_when_busy()
    found = sorted((record() for _ in range(rounds)), key=lambda one: one.tokens_per_s)
    for one in found:
        print(one)
    recording = Recording(
        model="all-MiniLM-L6-v2, int8",
        cpu=processor(),
        engine=f"openvino {version('openvino')}",
        calibration=found[rounds // 2],
    )
    content = msgspec.json.format(msgspec.json.encode(recording), indent=2)
    PATH.write_bytes(content + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
