"""A conversation as the prompt that its model was trained on: the model's own Jinja template.

Rendered as transformers renders it (the same sandbox, extensions, filters and globals), with bounds
on time and size, because a template comes out of a file: every turn of a loop and every call looks
at the clock, and whatever could multiply a value looks at its size. What is left, one
operation of Python over values of bounded size, is the watchdog's.
"""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.core.errors import CannotLoad, InvalidRequest

MAX_SOURCE_CHARS = 300_000
MAX_CHARS = 4_000_000  # of any value on the way, and of the prompt
MAX_BITS = 4096  # of an integer
MAX_RENDER_S = 0.5
TAKEN_OUT = ("center", "format", "indent", "wordwrap", "urlize", "pprint", "xmlattr")
WIDENING = frozenset("ljust rjust center zfill expandtabs format format_map translate".split())


class _TooMuch(Exception):
    """A bound of rendering was reached."""


def _too_large() -> _TooMuch:
    return _TooMuch(f"makes a value of more than {MAX_CHARS} characters")


class _Bounds(Extension):
    """What the compiled template calls to be stopped."""

    ends_at = float("inf")

    def turn(self) -> str:
        if time.monotonic() > self.ends_at:
            raise _TooMuch(f"takes longer than {MAX_RENDER_S:g} s")
        return ""

    def join(self, *values: Any) -> str:
        return _bounded_text("".join(map(str, values)))

    def joined(self, values: Any, d: Any = "", attribute: Any = None) -> str:
        """The filter `join`."""
        parts: list[str] = []
        size = 0
        for value in values:
            part = str(value if attribute is None else self.environment.getitem(value, attribute))
            size += len(part) + len(str(d))
            if size > MAX_CHARS:
                raise _too_large()
            parts.append(part)
        return str(d).join(parts)

    def to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """As transformers has it, without escapes for HTML; in pieces, so that it can stop."""
        indent = indent if indent is None else max(0, min(int(indent), 16))
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        pieces: list[str] = []
        size = 0
        for piece in encoder.iterencode(value):
            self.turn()
            size += len(piece)
            if size > MAX_CHARS:
                raise _too_large()
            pieces.append(piece)
        return "".join(pieces)


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it means nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def wrap_str_format(self, value: Any) -> None:
        """Formats are refused like other ways of widening a text, not made safe."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in WIDENING:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, function: Any, *args: Any, **named: Any) -> Any:
        return bounded(super().call(context, function, *args, **named))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def _generate(self, source: nodes.Template, *others: Any, **named: Any) -> str:
        _insert_bounds(source)
        return super()._generate(source, *others, **named)


class ChatTemplate:
    """One template. `tokens`: special tokens by the names that templates know (`bos_token`)."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        """Raises CannotLoad."""
        if len(source) > MAX_SOURCE_CHARS:
            raise CannotLoad(f"the chat template has more than {MAX_SOURCE_CHARS} characters")
        self._tokens = dict(tokens)
        self._environment = _environment()
        try:
            self.names = meta.find_undeclared_variables(self._environment.parse(source))
            self._template = self._environment.from_string(source)
        except (TemplateError, RecursionError, ValueError) as error:
            raise CannotLoad(f"the chat template cannot be read: {error}") from error
        self.knows_tools = "tools" in self.names
        self.knows_developer = "developer" in source
        self._bounds: Any = self._environment.extensions[_Bounds.identifier]

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        options: Mapping[str, Any],
    ) -> str:
        """Raises InvalidRequest with what the template says against the conversation."""
        known = {"messages": messages, "tools": tools, "add_generation_prompt": True}
        self._bounds.ends_at = time.monotonic() + MAX_RENDER_S
        try:
            return _bounded_text("".join(self._pieces({**self._tokens, **options, **known})))
        except _TooMuch as error:
            raise InvalidRequest(f"messages: rendering the model's chat template {error}") from None
        except (TemplateError, SecurityError, TypeError, ValueError, LookupError) as error:
            raise InvalidRequest(
                f"messages: the model's chat template says: {error}"[:500]
            ) from None
        except (RecursionError, ArithmeticError, AttributeError, MemoryError) as error:
            problem = type(error).__name__
            raise InvalidRequest(f"messages: the model's chat template fails: {problem}") from None

    def _pieces(self, names: Mapping[str, Any]) -> Any:
        size = 0
        for piece in self._template.generate(names):
            size += len(piece)
            if size > MAX_CHARS:
                raise _TooMuch(f"gives more than {MAX_CHARS} characters")
            yield piece


def _bounded_text(text: str) -> str:
    bounded(text)
    return text


def bounded(value: Any) -> Any:
    """The value itself. Raises for one that is too large."""
    if isinstance(value, str | list | tuple) and len(value) > MAX_CHARS:
        raise _too_large()
    return value


def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Bounds, _GenerationTag, LoopControlExtension],
    )
    for name in TAKEN_OUT:
        environment.filters.pop(name)
    environment.globals.pop("lipsum")
    bounds: Any = environment.extensions[_Bounds.identifier]
    environment.filters["tojson"] = bounds.to_json
    environment.filters["join"] = bounds.joined
    environment.filters["bounded"] = bounded
    replace = environment.filters["replace"]
    environment.filters["replace"] = _checked_replace(replace)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(str(form)[:100])
    return environment


def _checked_replace(replace: Any) -> Any:
    """`replace` passes its evaluation context on, as Jinja's own does."""

    def checked(context: Any, text: Any, old: Any, new: Any, count: Any = None) -> Any:
        text, old, new = str(text), str(old), str(new)
        if (text.count(old) if old else len(text) + 1) * len(new) > MAX_CHARS:
            raise _too_large()
        return replace(context, text, old, new, count)

    checked.jinja_pass_arg = replace.jinja_pass_arg  # type: ignore[attr-defined]
    return checked


def _raise(message: Any) -> None:
    raise TemplateError(str(message))


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        raise SecurityError("formatting by % is not allowed")
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 0) if operator == "**" else left.bit_length()
        if bits + right.bit_length() > MAX_BITS:
            raise _TooMuch(f"makes a number of more than {MAX_BITS} bits")
        return
    if operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str | list | tuple) and isinstance(times, int):
                if len(many) * times > MAX_CHARS:
                    raise _too_large()
    if operator == "+" and isinstance(left, str | list | tuple) and hasattr(right, "__len__"):
        if len(left) + len(right) > MAX_CHARS:
            raise _too_large()


def _insert_bounds(template: nodes.Template) -> None:
    """Into each loop and macro, and around whatever makes one text of several."""
    found: Any = template.find_all((nodes.For, nodes.Macro, nodes.CallBlock))
    for node in found:
        node.body.insert(0, nodes.ExprStmt(_called("turn", [], node.lineno), lineno=node.lineno))
    for block in template.find_all(nodes.AssignBlock):
        block.filter = nodes.Filter(block.filter, "bounded", [], [], None, None, lineno=1)
    for parent in _all(template):
        _replace_joins(parent)


def _all(template: nodes.Node) -> list[nodes.Node]:
    return [template, *template.find_all(nodes.Node)]


def _replace_joins(parent: nodes.Node) -> None:
    for name, value in parent.iter_fields():
        if isinstance(value, nodes.Concat):
            setattr(parent, name, _called("join", value.nodes, value.lineno))
        elif isinstance(value, list):
            value[:] = [
                _called("join", each.nodes, each.lineno) if isinstance(each, nodes.Concat) else each
                for each in value
            ]


def _called(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    function = nodes.ExtensionAttribute(_Bounds.identifier, method, lineno=line)
    return nodes.Call(function, arguments, [], None, None, lineno=line)
