"""What an input counts for at the door."""

import pytest

from app.core.parameters import resolve
from app.tasks.catalogue import task_info
from app.workers.effort import effort_of

MESSAGES = {"messages": [{"role": "user", "content": "x" * 100}]}


def generate(**given):
    return resolve(task_info("generate", "tokens").parameters, given)


@pytest.mark.parametrize(
    ("text", "parameters", "inputs", "effort"),
    [
        ("x" * 70, {}, None, 70.0),
        ("", {}, {"scores": [[1.0] * 64]}, 1.0),
        ("x" * 100, generate(), None, 100 + 4 * 50),
        ("x" * 100, generate(max_new_tokens=10), None, 100 + 4 * 10),
        ("x" * 100, generate(max_new_tokens=10, num_return_sequences=3), None, 100 + 3 * 40),
        ("x" * 100, generate(max_length=30), None, 100 + 4 * 5),
        ("x" * 100, generate(max_length=5), None, 100 + 4),
        ("", generate(max_new_tokens=10), MESSAGES, 104 + 4 * 10),  # the role counts, too
    ],
    ids=["text", "tensors", "as many as usual", "few", "several", "whole", "short", "conversation"],
)
def test_reading_and_writing_count(text, parameters, inputs, effort):
    assert effort_of(text, parameters, inputs) == effort
