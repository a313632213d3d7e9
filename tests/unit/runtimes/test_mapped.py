"""Mapped files leave resident memory and keep what they say."""

import mmap
from pathlib import Path

import pytest

from app.runtimes.mapped import drop_pages

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="counts pages as Linux does"
)


def resident_kb(path):
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.endswith(str(path)))
    return next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss:"))


def test_pages_of_a_mapped_file_are_given_back_and_still_readable(tmp_path):
    file = tmp_path.resolve() / "weights with spaces.bin"
    file.write_bytes(b"w" * 1_000_000)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == b"w" * 1_000_000
        before = resident_kb(file)

        drop_pages(file)

        assert before > 900
        assert resident_kb(file) < 100
        assert mapped[:] == b"w" * 1_000_000


def test_a_file_that_nobody_mapped_is_left_alone(tmp_path):
    drop_pages(tmp_path / "missing.bin")
