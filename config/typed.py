"""How does a table become a record whose definition says what is right, with every fault noted and none raised?"""

import difflib
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from config.fault import UNSHOWN, Fault
from config.reader import UNITS, Branch, Given, Node, duration_ms, shown
from schemas.fields import in_words

StructT = TypeVar("StructT", bound=msgspec.Struct)

_MS = "_ms"
_LACKS = "Object missing required field `"
_FORMS = {
    r"^https?://": "https://HOST/PATH (http:// with allow_private = true)",
    r"^\d{4}-\d{2}-\d{2}$": "a date as YYYY-MM-DD",
}
"""Patterns of settings, as a person would say them."""


def typed(branch: Branch, kind: type[StructT], path: str, faults: list[Fault]) -> StructT | None:
    """Read a table as `kind`; None when there was a fault.

    A duration may be given as in all settings: for a field `wait_ms` also `wait = "5 min"`.

    >>> class Rule(msgspec.Struct, kw_only=True):
    ...     wait_ms: int
    ...     says: str
    >>> place = ("own.toml", 3)
    >>> branch = Branch({"wait": Given("5 min", *place), "says": Given("so", *place)}, *place)
    >>> typed(branch, Rule, "rules.a", [])
    Rule(wait_ms=300000, says='so')
    >>> faults = []
    >>> typed(Branch({"wait": Given("soon", *place)}, *place), Rule, "rules.a", faults)
    >>> for fault in faults:
    ...     print(fault)
    own.toml:3: rules.a.wait: expected a duration (ms, s, min, h, d) such as "5 min", got "soon"; write for instance wait = "5 min"
    own.toml:3: rules.a.says: expected a value, got nothing; write says = …
    """
    before = len(faults)
    raw = _checked(branch, kind, path, faults)
    return msgspec.convert(raw, kind) if len(faults) == before else None


def _checked(node: Node, annotation: Any, path: str, faults: list[Fault]) -> object:  # noqa: ANN401 -- any annotation
    """Check one value against its annotation, part by part, and return it plain."""
    if isinstance(node, Branch):
        inner = _inner(annotation)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            return _struct(node, inner, path, faults)
        if get_origin(inner) is dict:
            key, value = get_args(inner)
            raw: dict[str, object] = {}
            for name, child in node.children.items():
                _convert(name, key, _joined(path, name), child, faults)
                raw[name] = _checked(child, value, _joined(path, name), faults)
            return raw
    return _convert(plain(node), annotation, path, node, faults)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _struct(branch: Branch, kind: type[msgspec.Struct], path: str, faults: list[Fault]) -> dict[str, object]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind) if field.name != "schema"}
    raw: dict[str, object] = {}
    for name, node in branch.children.items():
        said = _joined(path, name)
        if name in fields:
            raw[name] = _checked(node, fields[name].type, said, faults)
        elif name + _MS in fields:
            raw[name + _MS] = _durations(node, said, faults)
        else:
            near = difflib.get_close_matches(name, fields, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(fields))}"
            faults.append(_fault(node, said, "a setting that Tocsin knows", f'"{name}"', remedy))
    for name, field in fields.items():
        if field.required and name not in raw:
            expected, like = ("true or false", "false") if field.type is bool else ("a value", "…")
            faults.append(_fault(branch, _joined(path, name), expected, "nothing", f"write {name} = {like}"))
    return raw


def _durations(node: Node, path: str, faults: list[Fault]) -> object:
    """Read a duration, or a table of them, into milliseconds."""
    if isinstance(node, Branch):
        return {name: _durations(child, _joined(path, name), faults) for name, child in node.children.items()}
    milliseconds = duration_ms(node.text) if isinstance(node.text, str) else None
    if milliseconds is None:
        name = path.rpartition(".")[2]
        remedy = f'write for instance {name} = "5 min"'
        faults.append(_fault(node, path, f'a duration ({UNITS}) such as "5 min"', shown(node.text), remedy))
    return milliseconds


def _convert(value: object, annotation: Any, path: str, at: Node, faults: list[Fault]) -> object:  # noqa: ANN401 -- as above
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError as error:
        text, _, inner = str(error).partition(" - at `")
        expected, _, got = text.removeprefix("Expected ").partition(", got ")
        if text.startswith(_LACKS):
            expected, got = f"a table with {text.removeprefix(_LACKS).rstrip('`')}", "one without"
        setting = path + inner.rstrip("`").removeprefix("$").replace("[...]", "")
        remedy = "write one that fits"
        if text.startswith("Invalid enum value "):
            got = text.removeprefix("Invalid enum value ")
            allowed = _allowed(annotation, inner.rstrip("`"))
            expected = f"one of {', '.join(allowed)}" if allowed else "one of the names that are allowed here"
            near = difflib.get_close_matches(got.strip("'"), allowed, n=1)
            remedy = f"did you mean {near[0]}?" if near else remedy
        elif text.startswith("Invalid value "):
            expected, got = "one of the names that are allowed here", text.removeprefix("Invalid value ")
        if isinstance(at, Given) and at.raw and _holds_others(annotation):
            got = UNSHOWN  # a variable may hold what was meant for one inside
        else:
            got = (got.replace("`", "") or "another") if inner else shown(value)
        expected = in_words(expected) if expected.startswith("`") else expected
        expected = next((form for pattern, form in _FORMS.items() if repr(pattern) in expected), expected)
        faults.append(_fault(at, setting, expected[:1].lower() + expected[1:], got, remedy))
    return value


def _allowed(annotation: Any, path: str) -> list[str]:  # noqa: ANN401 -- as above
    """Return the names that are allowed at a path of msgspec's below `annotation`; none where they are no texts.

    >>> class Way(msgspec.Struct):
    ...     modes: tuple[Literal["page", "ticket"], ...]
    >>> _allowed(tuple[Way, ...], "$[0].modes[0]")
    ['page', 'ticket']
    """
    found = [annotation]
    for step in [*re.findall(r"\.(\w+)|\[", path.removeprefix("$")), None]:
        found = [one for each in found for one in _members(each)]
        if step:
            structs = [one for one in found if isinstance(one, type) and issubclass(one, msgspec.Struct)]
            fields = [field for struct in structs for field in msgspec.structs.fields(struct)]
            found = [field.type for field in fields if field.encode_name == step]
        elif step is not None:
            found = [argument for one in found for argument in get_args(one) if argument is not Ellipsis]
    return [name for one in found if get_origin(one) is Literal for name in get_args(one) if isinstance(name, str)]


def _members(annotation: Any) -> list[Any]:  # noqa: ANN401 -- as above
    """Return what an annotation may be: the members of a union, without what is only said about them."""
    if getattr(annotation, "__metadata__", None):
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return [one for argument in get_args(annotation) for one in _members(argument)]
    return [annotation]


def _holds_others(annotation: Any) -> bool:  # noqa: ANN401 -- as above
    """Whether a table is meant, or a list."""
    inner = _inner(annotation)
    return get_origin(inner) in {dict, list, tuple} or (isinstance(inner, type) and issubclass(inner, msgspec.Struct))


def _inner(annotation: Any) -> Any:  # noqa: ANN401 -- as above
    """Return what an annotation is when it is not None: the one struct or dict among its members."""
    if get_origin(annotation) in {Union, types.UnionType}:
        return next((one for one in map(_inner, get_args(annotation)) if one is not type(None)), annotation)
    metadata = getattr(annotation, "__metadata__", None)
    return _inner(get_args(annotation)[0]) if metadata else annotation


def plain(node: Node) -> object:
    """Return a value without its places."""
    if isinstance(node, Given):
        return node.read
    return {name: plain(child) for name, child in node.children.items()}


def unplaced(raw: Mapping[str, object]) -> Branch:
    """Return a table whose places are not known, as `typed` reads it.

    >>> plain(unplaced({"a": {"b": 1}}))
    {'a': {'b': 1}}
    """
    children = {
        name: unplaced(value) if isinstance(value, Mapping) else Given(value, "", 0) for name, value in raw.items()
    }
    return Branch(children, "", 0)


def placed(branch: Branch, path: str) -> Node:
    """Find the node that a dotted path leads to, as far as it leads.

    >>> placed(Branch({"a": Branch({}, "f", 2)}, "f", 0), "a.b[3].c").line
    2
    """
    node: Node = branch
    for name in path.replace("[", ".").replace("]", "").split("."):
        if not isinstance(node, Branch) or name not in node.children:
            break
        node = node.children[name]
    return node


def _fault(node: Node, setting: str, expected: str, got: str, remedy: str) -> Fault:
    return Fault(source=node.source, line=node.line, setting=setting, expected=expected, got=got, remedy=remedy)


def names_of(kind: type[msgspec.Struct]) -> Iterator[str]:
    """Names of a record's settings as they are written.

    >>> class Rule(msgspec.Struct, kw_only=True):
    ...     kind: str = msgspec.field(name="class")
    >>> list(names_of(Rule))
    ['class']
    """
    return (field.encode_name for field in msgspec.structs.fields(kind))


def within(branch: Branch, names: Mapping[str, object]) -> tuple[Branch, Branch]:
    """Part a table in two: what is called so, and the rest.

    >>> some, rest = within(Branch({"a": Given(1, "f", 1), "b": Given(2, "f", 2)}, "f", 0), {"a": None})
    >>> list(some.children), list(rest.children)
    (['a'], ['b'])
    """
    inside = {name: node for name, node in branch.children.items() if name in names}
    outside = {name: node for name, node in branch.children.items() if name not in names}
    return Branch(inside, branch.source, branch.line), Branch(outside, branch.source, branch.line)
