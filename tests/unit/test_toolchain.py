import re
from pathlib import Path

from app.models.toolchain import TOOLCHAIN

ROOT = Path(__file__).parents[2]
PINS = {
    name: version
    for page in ("requirements-hub.txt", "requirements-hub-exporter.txt")
    for name, version in re.findall(
        r"^([\w.-]+)==([\w.]+)", (ROOT / page).read_text(), re.MULTILINE
    )
}


def test_the_tools_in_the_key_are_those_that_are_installed():
    """A preparation made with other tools must have another key."""
    assert {name: PINS[name] for name in TOOLCHAIN} == dict(TOOLCHAIN)
