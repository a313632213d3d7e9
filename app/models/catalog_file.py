"""A catalog as text: strict YAML in, plain data out, and errors that say where they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from app.core.errors import ConfigurationError
from app.models.spec import NAME

_TEXT_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the catalog we are, for messages."""

    catalog: Path
    at: str = ""

    def inside(self, *names: str) -> "Place":
        return Place(self.catalog, ".".join(filter(None, (self.at, *names))))

    def wrong(self, problem: object) -> ConfigurationError:
        where = f" {self.at}:" if self.at else ""
        return ConfigurationError(f"catalog {self.catalog}:{where} {problem}")


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice (the later would silently win) or read as a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _TEXT_TAGS:
                raise yaml.MarkedYAMLError(
                    problem=f"names must be text: put {key.value} in quotes",
                    problem_mark=key.start_mark,
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return node


def read_yaml(place: Place) -> Any:
    try:
        # A subclass of SafeLoader: it builds plain data only.
        return yaml.load(place.catalog.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise place.wrong(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise place.wrong("is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise place.wrong(f"{line}{error.problem}") from error
    except yaml.YAMLError as error:
        raise place.wrong(f"is not YAML: {' '.join(str(error).split())}") from error


def convert(raw: Any, struct: type[_Struct], place: Place) -> _Struct:
    try:
        return msgspec.convert(raw, struct)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        if "unknown field" in problem:
            problem += f"; known fields: {', '.join(struct.__struct_fields__)}"
        if "matching regex" in problem:
            problem = "must be 64 hexadecimal digits in lower case"
        if problem.startswith("Expected `str`, got"):
            problem += "; put it in quotes"
        raise place.inside(path.rstrip("`")).wrong(problem) from None


def check_name(name: str, place: Place) -> None:
    if not NAME.fullmatch(name):
        raise place.wrong(
            f"the name {name!r} is not allowed: 1 to 128 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )
