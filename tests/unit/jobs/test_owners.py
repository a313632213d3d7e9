"""A dead server is known by its lock, which nobody has to let go."""

import os

from app.jobs.owners import Owner


def kill(owner: Owner) -> None:
    """What the kernel does when its process ends."""
    os.close(owner._descriptor)


def test_who_lives_is_not_dead(tmp_path):
    one, other = Owner(tmp_path), Owner(tmp_path)
    assert list(one.dead()) == list(other.dead()) == []
    one.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_who_has_died_is_found_until_it_is_forgotten(tmp_path):
    one, other = Owner(tmp_path), Owner(tmp_path)
    kill(other)
    assert list(one.dead()) == [other.name]
    assert list(one.dead()) == [other.name]
    one.forget(other.name)
    one.forget(other.name)
    assert list(one.dead()) == []
    one.close()


def test_a_server_that_is_just_starting_is_not_taken_for_dead(tmp_path):
    one = Owner(tmp_path)
    (tmp_path / "abc.new").touch()
    assert list(one.dead()) == []
    one.close()
