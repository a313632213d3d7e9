"""Contents are whole or not there, and what was left behind is told from what is written now."""

import hashlib

import pytest

from app.batches.contents import Contents

NAME, OTHER = f"file-{'a' * 32}", f"file-{'b' * 32}"


@pytest.fixture
def contents(tmp_path):
    return Contents(tmp_path / "files")


def test_a_content_is_there_when_it_is_finished(contents):
    incoming = contents.receive(NAME)
    for piece in (b"one\n", b"two\n"):
        incoming.write(piece)
    with pytest.raises(FileNotFoundError):
        contents.open(NAME)
    assert incoming.finish() == hashlib.sha256(b"one\ntwo\n").digest()
    incoming.close(is_kept=True)
    with contents.open(NAME) as file:
        assert file.read() == b"one\ntwo\n"
    assert incoming.size == 8


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_content_without_a_row_is_deleted(contents, tmp_path, is_finished):
    incoming = contents.receive(NAME)
    if is_finished:
        incoming.finish()
    incoming.close(is_kept=False)
    assert [path.name for path in (tmp_path / "files").iterdir()] == [".place"]


def test_what_is_being_written_is_not_left_behind(contents):
    under_way, finished, left = (contents.receive(f"file-{x * 32}") for x in "abc")
    finished.finish()
    left.write(b"x")
    left._file.close()  # its process has ended
    assert list(contents.left_behind()) == [f"file-{'c' * 32}.tmp"]
    finished.close(is_kept=True)
    assert sorted(contents.left_behind()) == [f"file-{'b' * 32}", f"file-{'c' * 32}.tmp"]
    under_way.close(is_kept=False)


def test_a_file_is_taken_in_once(contents, tmp_path):
    path = tmp_path / "results"
    path.write_bytes(b"abc")
    told = (3, hashlib.sha256(b"abc").digest())
    assert contents.take_in(path, NAME) == told
    assert contents.take_in(path, NAME) == told, "as after it was interrupted"
    assert contents.take_in(path, OTHER) is None
    assert not path.exists()
    contents.delete([NAME, OTHER])
    assert contents.take_in(path, NAME) is None


def test_a_folder_has_one_name_for_all(contents, tmp_path):
    assert Contents(tmp_path / "files").place == contents.place
    assert Contents(tmp_path / "others").place != contents.place
