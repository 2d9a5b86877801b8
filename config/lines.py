"""On which line of a TOML file does a setting stand? The standard reader does not say."""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping

SettingPath = tuple[str, ...]

_PIECE = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}]|\n|[^\[\]{}"\'#\n]+|.',
    re.DOTALL,
)
_NAME = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = rf"{_NAME}(?:[ \t]*\.[ \t]*{_NAME})*"
_STATEMENT = re.compile(rf"[ \t]*(?:(\[\[?)[ \t]*({_KEY})[ \t]*\]\]?|({_KEY})[ \t]*=|)")


def lines_of(text: str) -> Mapping[SettingPath, int]:
    """Find the line, from 1, of each table and key of a file that the standard reader accepts.

    A table in an array of tables has its index as a name; what stands inside an inline table or an array has no line
    of its own.

    >>> lines_of('''a = [
    ...   1]
    ... [models."m.1"]
    ... x.y = 2  # [no]
    ... [[steps]]
    ... z = 3
    ... ''')
    {('a',): 1, ('models', 'm.1'): 3, ('models', 'm.1', 'x', 'y'): 4, ('steps', '0'): 5, ('steps', '0', 'z'): 6}
    """
    lines: dict[SettingPath, int] = {}
    counts: Counter[SettingPath] = Counter()
    table: SettingPath = ()
    at, line = 0, 1
    while at < len(text):
        statement = _STATEMENT.match(text, at)
        assert statement is not None  # its last alternative is empty
        bracket, header, key = statement.groups()
        if header is not None:
            table = _path(header)
            if bracket == "[[":
                counts[table] += 1
                table = (*table, str(counts[table] - 1))
            else:
                table = _inside(table, counts)
            lines[table] = line
        elif key is not None:
            lines[(*table, *_path(key))] = line
        at = statement.end()
        depth = 0
        while at < len(text):
            piece = text[at : at + 1] if (match := _PIECE.match(text, at)) is None else match.group()
            at += len(piece)
            line += piece.count("\n")
            depth += (piece in {"[", "{"}) - (piece in {"]", "}"})
            if piece == "\n" and depth <= 0:
                break
    return lines


def _path(key: str) -> SettingPath:
    """Read a dotted key as the standard reader does."""
    names, node = [], tomllib.loads(f"{key} = 0")
    while isinstance(node, dict):
        ((name, node),) = node.items()
        names.append(name)
    return tuple(names)


def _inside(table: SettingPath, counts: Counter[SettingPath]) -> SettingPath:
    """Put the index of the last table of an array behind the array's name: `[steps.x]` belongs to the last `[[steps]]`."""
    path: SettingPath = ()
    for name in table:
        path = (*path, name)
        if counts[path]:
            path = (*path, str(counts[path] - 1))
    return path
