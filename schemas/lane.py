"""Which series is watched?"""

from typing import NamedTuple

OTHER = "(other)"
"""The value of every version or segment value that the baseline does not list; always in shadow."""

_ESCAPES = (("%", "%25"), ("|", "%7C"), ("=", "%3D"), (":", "%3A"))


def _quoted(text: str) -> str:
    for plain, escaped in _ESCAPES:
        text = text.replace(plain, escaped)
    return text


def _unquoted(text: str) -> str:
    for plain, escaped in reversed(_ESCAPES):
        text = text.replace(escaped, plain)
    return text


class Lane(NamedTuple):
    """One monitored series of a model: a version, a segment's value, both, or all of it.

    Empty parts are rolled up over: `Lane()` is the whole model, `Lane(segment="SEX", value="1")` that value in all
    versions. The name is what travels.

    Examples
    --------
    >>> Lane().name, Lane(version="7").name, Lane(version="7", segment="SEX", value="1").name
    ('*', 'version:7', 'version:7|segment:SEX=1')
    >>> Lane.of("segment:a%3Db=x")
    Lane(version='', segment='a=b', value='x')
    >>> Lane().is_rollup, Lane(segment="SEX", value="1").is_rollup, Lane("7", "SEX", "1").is_rollup
    (True, True, False)
    """

    version: str = ""
    segment: str = ""
    value: str = ""

    @property
    def name(self) -> str:
        """The lane in one text, unique within its model."""
        parts = [f"version:{_quoted(self.version)}"] if self.version else []
        if self.segment:
            parts.append(f"segment:{_quoted(self.segment)}={_quoted(self.value)}")
        return "|".join(parts) or "*"

    @property
    def is_rollup(self) -> bool:
        """Whether it adds up finer lanes: all but a segment's value within one version."""
        return not (self.version and self.segment)

    @classmethod
    def of(cls, name: str) -> "Lane":
        """Read a lane's name."""
        version = segment = value = ""
        for part in () if name == "*" else name.split("|"):
            kind, _, rest = part.partition(":")
            if kind == "version":
                version = _unquoted(rest)
            else:
                left, _, right = rest.partition("=")
                segment, value = _unquoted(left), _unquoted(right)
        return cls(version, segment, value)
