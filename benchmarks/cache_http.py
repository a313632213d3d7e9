"""A kept answer beside a computed one, through HTTP: sentiment and embedder, one text at a time.

    python -m benchmarks.cache_http

Each text is asked twice in a row over one connection of the standard library's client: the first
answer is computed, the second one kept. Medians and 90th percentiles of both.
"""

import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.harness import running_server, texts_of_lognormal_length, warn_when_busy
from tests.e2e.serving import catalog_with_caches

TEXTS = 300
WARM_UP = 20


def timed_ms(connection: http.client.HTTPConnection, model: str, text: str) -> tuple[float, bool]:
    """How long the answer took, and whether it was kept."""
    body = json.dumps({"model": model, "text": text})
    started = time.perf_counter()
    connection.request("POST", "/infer", body, {"Content-Type": "application/json"})
    answer = connection.getresponse().read()
    took_ms = (time.perf_counter() - started) * 1000
    return took_ms, json.loads(answer)["metadata"].get("cached", False)


def report(model: str, times: dict[bool, list[float]]) -> None:
    for was_kept, found in times.items():
        p90 = statistics.quantiles(found, n=10)[-1]
        print(
            f"{model:<10} {'kept' if was_kept else 'computed':<9} {len(found)} answers: "
            f"median {statistics.median(found):.2f} ms, p90 {p90:.2f} ms"
        )
    ratio = statistics.median(times[False]) / statistics.median(times[True])
    print(f"{model:<10} ratio {ratio:.1f}")


def main() -> None:
    warn_when_busy()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(
            MODEL_CATALOG=catalog_with_caches(Path(folder), "sentiment", "embedder"),
            RESPONSE_CACHE_MB=10,
        ) as server,
    ):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for model in ("sentiment", "embedder"):
            times: dict[bool, list[float]] = {False: [], True: []}
            for index, text in enumerate(texts_of_lognormal_length(WARM_UP + TEXTS, seed=7)):
                for _ in range(2):
                    took_ms, was_kept = timed_ms(connection, model, text)
                    if index >= WARM_UP:
                        times[was_kept].append(took_ms)
            report(model, times)
        connection.close()


if __name__ == "__main__":
    main()
