"""What a run of Schemathesis has asked and was answered, from the report that it writes of it."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Covered = Mapping[str, Counter[int]]
METHODS = ("get", "post", "patch", "delete")


def covered(report: Path) -> Covered:
    """Answers by operation (`POST /infer`) and status; of methods that it does not take, none."""
    found: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for operation, exchange in _exchanges(report):
        if exchange["request"]["method"] == operation.partition(" ")[0] and exchange["response"]:
            found[operation][exchange["response"]["status_code"]] += 1
    return found


def _exchanges(report: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Chains of requests belong to no operation, and are left out."""
    with report.open(encoding="utf-8") as lines:
        for line in lines:
            if (scenario := json.loads(line).get("ScenarioFinished")) is None:
                continue
            recorder = scenario["recorder"]
            if scenario["phase"] != "stateful":
                for exchange in recorder.get("interactions", {}).values():
                    yield recorder["label"], exchange


def documented(document: Mapping[str, Any]) -> dict[str, list[int]]:
    """The statuses of every operation."""
    return {
        f"{method.upper()} {path}": sorted(map(int, operations[method]["responses"]))
        for path, operations in document["paths"].items()
        for method in METHODS
        if method in operations
    }


def table(found: Covered, declared: Mapping[str, list[int]]) -> str:
    """A line for each operation: how often which status came, and which never did."""
    width = max(map(len, declared))
    lines = []
    for operation, statuses in declared.items():
        seen = ", ".join(f"{status}: {count}" for status, count in sorted(found[operation].items()))
        unseen = ", ".join(str(each) for each in statuses if each not in found[operation])
        lines.append(f"{operation:{width}}  {seen}" + (f"; never {unseen}" if unseen else ""))
    return "\n".join(lines)
