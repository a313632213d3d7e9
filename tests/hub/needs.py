"""What the tests of this folder need beyond requirements.txt."""

from importlib.util import find_spec

NEEDS = ("torch", "transformers", "optimum", "nncf")
MISSING = [name for name in NEEDS if find_spec(name) is None]
