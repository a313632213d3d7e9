"""What the embedded generator writes does not depend on who shares its steps."""

from itertools import islice
from typing import Any

import pytest

from app.core.inference import Generated, Sampling
from app.runtimes.openvino_paged import OpenVinoLlm
from app.runtimes.openvino_llm_files import CHUNK_TOKENS

pytestmark = pytest.mark.timeout(180)

GREEDY = Sampling(max_new_tokens=12)
# 256 and 257 leave a single token to a second piece, alone or beside others.
LENGTHS = [257, 5, 300, 1, 256, 33, 700, 2, 509, 100, 255, 64, 514, 16]


@pytest.fixture(scope="module")
def prompts(runtime: OpenVinoLlm) -> list[list[int]]:
    text = " ".join(f"In year {n} a bridge of {n % 7} arches fell." for n in range(1500, 1700))
    (tokens,) = runtime.tokenizer.encode([text])
    return [tokens[37 * at : 37 * at + length] for at, length in enumerate(LENGTHS)]


def written(
    runtime: OpenVinoLlm, prompts: list[list[int]], sampling: Sampling, *, gap: int
) -> list[tuple[Generated, ...]]:
    """One prompt joins every `gap` steps; 0: all at once."""
    waiting = iter(enumerate(prompts))
    done: dict[int, tuple[Generated, ...]] = {}
    step = 0
    while len(done) < len(prompts):
        if not gap or step % gap == 0:
            for number, prompt in islice(waiting, None if not gap else 1):
                runtime.add(number, prompt, sampling)
        outcome = runtime.step()
        assert sum(outcome.read.values()) <= CHUNK_TOKENS
        done |= outcome.finished
        step += 1
    return [done[number] for number in range(len(prompts))]


def test_a_greedy_text_is_the_same_alone_and_among_others_of_any_length(runtime, prompts):
    alone = [written(runtime, [prompt], GREEDY, gap=0)[0] for prompt in prompts]

    for order, gap in ((prompts, 0), (prompts, 2), (prompts[::-1], 3)):
        among = written(runtime, order, GREEDY, gap=gap)
        assert among == (alone if order is prompts else alone[::-1])


def test_a_long_prompt_is_read_while_others_write_and_leaves_between_two_chunks(runtime, prompts):
    expected = written(runtime, prompts[1:2], GREEDY, gap=0)
    runtime.add(1, prompts[1], GREEDY)
    runtime.step()
    runtime.add(2, prompts[6], GREEDY)
    reads = [runtime.step().read.get(2, 0) for _ in range(2)]
    runtime.cancel(2)
    finished: dict[int, Any] = {}
    while not finished:
        outcome = runtime.step()
        assert not outcome.read
        finished = dict(outcome.finished)

    assert 0 < min(reads) and sum(reads) < len(prompts[6])
    assert finished == {1: expected[0]}
