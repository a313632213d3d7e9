import pytest

from app.core.errors import CannotLoad
from app.models.resources import available_memory, require_disk, require_memory

HUGE = 10**18


def cgroup(folder, limit, used, files=0):
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text(used)
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {files}\nactive_file 0\n")
    return folder


def test_what_fits_is_let_pass(tmp_path):
    require_disk(tmp_path / "not" / "there" / "yet", 1, "the files")
    require_memory(1, "preparing it", tmp_path)


def test_too_small_a_disk_is_refused_with_both_sizes_and_the_folder(tmp_path):
    with pytest.raises(CannotLoad, match=rf"the files need {HUGE // 10**6} MB in {tmp_path}.*free"):
        require_disk(tmp_path, HUGE, "the files")


def test_too_little_memory_is_refused_with_both_sizes(tmp_path):
    with pytest.raises(
        CannotLoad, match=rf"preparing it needs about {HUGE // 10**6} MB.*available"
    ):
        require_memory(HUGE, "preparing it", tmp_path)


def test_limit_of_a_container_counts(tmp_path):
    assert available_memory(cgroup(tmp_path, "1000", "400")) == 600


def test_files_that_the_kernel_only_keeps_do_not_count_as_used(tmp_path):
    """After a large download nearly all of a container's memory looks used."""
    assert available_memory(cgroup(tmp_path, "1000", "990", files=900)) == 910


def test_container_without_a_limit_has_the_machine_s_memory(tmp_path):
    assert available_memory(cgroup(tmp_path, "max", "400")) > 10**6
