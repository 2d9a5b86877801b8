"""How does foreign text stand on a line, so that no terminal, viewer or reader of lines acts on it?"""

from collections.abc import Callable

import msgspec


def plain(text: str, keep: str = "") -> str:
    r"""Make text harmless for a terminal: what is no visible character or space is shown, not sent, unless it is kept.

    >>> plain("a\x1b[31mred\n"), plain("Zürich"), plain("a\u202eb\n", keep="\n")
    ('a\\x1b[31mred\\n', 'Zürich', 'a\\u202eb\n')
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else one.encode("unicode_escape").decode() for one in text)


def json_line(value: object, enc_hook: Callable[[object], object] | None = None) -> str:
    r"""Write a value as one line of JSON, without its end; what is no visible character is escaped as JSON allows.

    >>> json_line({"a": "\x1b[31m \x9b \u202e \u2028 ü"})
    '{"a":"\\u001b[31m \\u009b \\u202e \\u2028 ü"}'
    """
    line = msgspec.json.encode(value, enc_hook=enc_hook).decode()
    return line if line.isprintable() else "".join(one if one.isprintable() else _escaped(one) for one in line)


def _escaped(rune: str) -> str:
    r"""Escape one character; beyond 16 bits as a pair.

    >>> _escaped("\U000e0001")
    '\\udb40\\udc01'
    """
    units = rune.encode("utf-16-be")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
