"""How does one table of settings become values, with every fault noted and none raised?"""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from config import files
from config.fault import UNSHOWN, Fault

EnumT = TypeVar("EnumT", bound=str)

_UNITS_MS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
UNITS = "ms, s, min, h, d"
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|min|h|d)")
_MS = "_ms"

MOST_SECRET_BYTES = 65_536
MOST_SHOWN = 200
"""Characters of a value in the message of its fault."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it came, with its source and line; `raw` says that it is text from outside any file."""

    value: Any
    source: str
    line: int
    raw: bool = False

    @property
    def read(self) -> Any:  # noqa: ANN401 -- whatever TOML can hold
        """The value; raw text is read as TOML where it is one value of it."""
        if not self.raw:
            return self.value
        try:
            read = tomllib.loads(f"v = {self.value}")
        except (ValueError, RecursionError):  # no TOML, a number of thousands of digits, nested too deep
            return self.value
        return read["v"] if len(read) == 1 else self.value

    @property
    def text(self) -> Any:  # noqa: ANN401 -- as above
        """The value where a text is meant: raw text loses the quotes of a TOML string, and is else what it is.

        >>> Given('"5 s"', "A", 0, raw=True).text, Given("007", "A", 0, raw=True).text, Given("5", "A", 0, raw=True).text
        ('5 s', '007', '5')
        """
        read = self.read
        return read if isinstance(read, str) else self.value


@dataclass(frozen=True, slots=True)
class Branch:
    """A table as it came: what stands in it, and where it stands itself."""

    children: Mapping[str, "Given | Branch"]
    source: str
    line: int


Node = Given | Branch


def layered(below: Branch, above: Branch) -> Branch:
    """Lay one source over another: tables are merged, values replaced. A duration replaces its other form.

    >>> below = Branch({"tick": Given("10 s", "a", 1), "n": Given(1, "a", 2)}, "a", 0)
    >>> sorted(layered(below, Branch({"tick_ms": Given(500, "b", 1)}, "b", 0)).children)
    ['n', 'tick_ms']
    """
    children = dict(below.children)
    for name, node in above.children.items():
        twin = name.removesuffix(_MS) if name.endswith(_MS) else name + _MS
        if twin not in above.children:
            children.pop(twin, None)
        under = children.get(name)
        children[name] = layered(under, node) if isinstance(under, Branch) and isinstance(node, Branch) else node
    return Branch(children, above.source, above.line)


def duration_ms(text: str) -> int | None:
    """Read a duration, None when it is none or no whole number of milliseconds.

    >>> duration_ms("10 s"), duration_ms("1.5h"), duration_ms("14 d"), duration_ms("10"), duration_ms("0.5 ms")
    (10000, 5400000, 1209600000, None, None)
    >>> duration_ms("9" * 400 + " d") is None
    True
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        return None
    milliseconds = float(match[1]) * _UNITS_MS[match[2]]
    return int(milliseconds) if milliseconds.is_integer() else None


def duration_text(milliseconds: int) -> str:
    """Write a duration in the largest unit that divides it.

    >>> duration_text(10_000), duration_text(90_000), duration_text(1_209_600_000), duration_text(0)
    ('10 s', '90 s', '14 d', '0 ms')
    """
    unit = max(
        (unit for unit, ms in _UNITS_MS.items() if milliseconds and milliseconds % ms == 0),
        default="ms",
        key=lambda unit: _UNITS_MS[unit],
    )
    return f"{milliseconds // _UNITS_MS[unit]} {unit}"


class Table:
    """One table as it was given. Each method reads one setting; `close` notes what nobody asked for.

    A fault is noted in `faults`, and the method returns some value of the right type: whoever reads goes on, and the
    values are thrown away when there is any fault.

    Parameters
    ----------
    path
        Dotted name of the table; empty for the outermost.
    branch
        The table as it came; what is missing in it is noted at its own place.
    """

    def __init__(self, path: str, branch: Branch, faults: list[Fault]) -> None:
        self.path = path
        self._branch = branch
        self._nodes = branch.children
        self._faults = faults
        self._known: list[str] = []

    def name_of(self, name: str) -> str:
        """Dotted name of a setting in this table."""
        return f"{self.path}.{name}" if self.path else name

    def note(self, name: str, expected: str, got: str, remedy: str, *, at: str | None = None) -> None:
        """Note a fault of one setting: at the place of `at`, else at its own, else at the table's.

        What follows from a fault that was noted already, of this setting or of a table around it, is not said again,
        nor a fault of a default by each table that takes it.
        """
        setting = self.name_of(name) if name else self.path
        if any(setting == fault.setting or setting.startswith(f"{fault.setting}.") for fault in self._faults):
            return
        place = name if at is None else at
        node = self._nodes.get(place, self._nodes.get(place + _MS, self._branch))
        fault = Fault(source=node.source, line=node.line, setting=setting, expected=expected, got=got, remedy=remedy)
        if not any(replace(known, setting=setting) == fault for known in self._faults):
            self._faults.append(fault)

    def has(self, name: str) -> bool:
        """Whether a setting was given; knows it from then on."""
        self._known.append(name)
        return name in self._nodes

    def _value(self, name: str, expected: str, remedy: str) -> Given | None:
        if not self.has(name):
            self.note(name, expected, "nothing", remedy)
            return None
        node = self._nodes[name]
        if isinstance(node, Given):
            return node
        self.note(name, expected, "a table", remedy)
        return None

    def text(self, name: str, expected: str, like: str, *, pattern: str = r".*") -> str:
        """Read a text that matches `pattern` as a whole; `like` is an example of one."""
        remedy = f'write for instance {name} = "{like}"'
        given = self._value(name, expected, remedy)
        if given is None:
            return ""
        if not isinstance(given.text, str) or re.fullmatch(pattern, given.text) is None:
            self.note(name, expected, shown(given.text), remedy)
            return ""
        return given.text

    def path_of(self, name: str, like: str, *, needed: bool = False) -> str:
        """Read a path; empty where none is meant, unless it is `needed`. Whether anything lies there is not looked at."""
        return self.text(name, "a path", like, pattern=rf"[^\0\n]{'+' if needed else '*'}")

    def check_readable(self, name: str, path: str) -> None:
        """Note a file that cannot be read; an empty path is none."""
        try:
            if path:
                files.check(Path(path))
        except (OSError, ValueError) as error:
            self.note(
                name, "a file that can be read", cause_of(error), "name one that is there, readable by this process"
            )

    def secret(self, name: str) -> str | None:
        """Read what only the environment may say, or a file that `NAME_file` names; None when neither does."""
        variable = f"TOCSIN__{self.name_of(name).replace('.', '__').upper()}"
        file = self.path_of(f"{name}_file", f"/run/secrets/{name}")
        if not self.has(name):
            return self._secret_of(f"{name}_file", file) if file else None
        given = self._nodes[name]
        if not isinstance(given, Given) or not given.raw:
            self.note(name, "a secret from the environment", "one in a file", f"remove it here and set {variable}")
        elif file:
            self.note(name, "one source of this secret", f"{name}_file too", f"keep one: {variable} or {name}_file")
        else:
            return str(given.value)
        return None

    def _secret_of(self, name: str, file: str) -> str:
        """Read a file that holds a secret and perhaps a line end; where it cannot be read, that is the one fault."""
        remedy = "let it hold the secret, readable by this process, and nothing else"
        try:
            text = files.read(Path(file), MOST_SECRET_BYTES).decode().rstrip("\r\n")
        except (OSError, ValueError) as error:
            self.note(name, "a file that can be read", cause_of(error), remedy)
            return ""
        if len(text.encode()) > MOST_SECRET_BYTES:
            self.note(name, f"a secret of at most {MOST_SECRET_BYTES} bytes", "more", remedy)
        elif not text:
            self.note(name, "a secret in this file", "nothing", remedy)
        elif len(text.splitlines()) > 1:
            self.note(name, "a secret on one line", f"{len(text.splitlines())} lines", remedy)
        return text

    def choice(self, name: str, among: tuple[EnumT, ...]) -> EnumT:
        """Read one of some names."""
        expected = "one of " + ", ".join(among)
        given = self._value(name, expected, "choose one of them")
        if given is not None and given.text in among:
            return among[among.index(given.text)]
        if given is not None:
            self.note(name, expected, shown(given.text), f"choose one of them{_nearest(given.text, among)}")
        return among[0]

    def whole(self, name: str, low: int, high: int) -> int:
        """Read a whole number in `[low, high]`."""
        expected = f"a whole number from {low} to {high}"
        given = self._value(name, expected, f"write for instance {name} = {low}")
        if given is None:
            return low
        value = given.read
        if type(value) is not int or not low <= value <= high:
            self.note(name, expected, shown(value), "write a number in that range")
            return low
        return value

    def number(self, name: str, expected: str, right: Callable[[float], bool], remedy: str) -> float:
        """Read a finite number for which `right` holds."""
        given = self._value(name, expected, remedy)
        if given is None:
            return 0.0
        value = given.read
        number = _as_float(value) if type(value) in {int, float} else math.nan
        if not (math.isfinite(number) and right(number)):
            self.note(name, expected, shown(value), remedy)
            return 0.0
        return number

    def duration(self, name: str, low_ms: int, high_ms: int) -> int:
        """Read a duration in milliseconds: `name = "10 s"`, or `name_ms = 10000`."""
        expected = f"a duration ({UNITS}) from {duration_text(low_ms)} to {duration_text(high_ms)}"
        example_ms = max(low_ms, _UNITS_MS["s"])
        remedy = f'write for instance {name} = "{duration_text(example_ms)}" or {name}{_MS} = {example_ms}'
        if self.has(name + _MS):
            if self.has(name):
                self.note(name, expected, f"both {name} and {name}{_MS}", "keep one of them")
                return low_ms
            return self._whole_ms(name + _MS, expected, remedy, low_ms, high_ms)
        given = self._value(name, expected, remedy)
        if given is None:
            return low_ms
        milliseconds = duration_ms(given.text) if isinstance(given.text, str) else None
        if milliseconds is None or not low_ms <= milliseconds <= high_ms:
            self.note(name, expected, shown(given.text), remedy)
            return low_ms
        return milliseconds

    def _whole_ms(self, name: str, expected: str, remedy: str, low_ms: int, high_ms: int) -> int:
        given = self._value(name, expected, remedy)
        value = None if given is None else given.read
        if type(value) is not int or not low_ms <= value <= high_ms:
            if given is not None:
                self.note(name, expected, shown(value), remedy)
            return low_ms
        return value

    def texts(self, name: str, expected: str) -> tuple[str, ...]:
        """Read a list of different, non-empty texts."""
        remedy = f'write {name} = ["…", "…"]'
        given = self._value(name, expected, remedy)
        if given is None:
            return ()
        value = given.read
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            self.note(name, expected, shown(value), remedy)
            return ()
        if len(set(value)) < len(value):
            twice = next(one for one in value if value.count(one) > 1)
            self.note(name, expected, f"{shown(twice)} twice", "name each once")
            return ()
        return tuple(value)

    def table(self, name: str) -> "Table":
        """Return an inner table; an empty one when it was not given."""
        node = self._nodes[name] if self.has(name) else None
        if isinstance(node, Given):
            got = UNSHOWN if node.raw else shown(node.value)  # a variable may hold what was meant for one inside
            self.note(name, "a table", got, f"write [{self.name_of(name)}]")
        branch = node if isinstance(node, Branch) else Branch({}, self._branch.source, self._branch.line)
        return Table(self.name_of(name), branch, self._faults)

    def names(self) -> tuple[str, ...]:
        """Return what stands in this table, for tables whose keys are names; all are known from then on."""
        self._known += self._nodes
        return tuple(self._nodes)

    def over(self, defaults: "Table") -> "Table":
        """Lay this table over another one that holds its defaults."""
        return Table(self.path, layered(defaults._branch, self._branch), self._faults)  # noqa: SLF001 -- of its own class

    def close(self, *, also: Iterable[str] = ()) -> None:
        """Note every setting that nobody asked for, with the name that is nearest to it of those known here, or `also`."""
        known = list(dict.fromkeys([*self._known, *also]))
        for name in self._nodes:
            if name not in known:
                near = [one for one in known if one.startswith(name)]
                near += difflib.get_close_matches(name, known, n=1, cutoff=0.6)
                remedy = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
                self.note(name, "a setting that Tocsin knows", _quoted(name), remedy)


def cause_of(error: OSError | ValueError) -> str:
    """Say why a file could not be read or written as text.

    >>> cause_of(FileNotFoundError(2, "No such file or directory")), cause_of(ValueError("embedded null byte"))
    ('No such file or directory', 'embedded null byte')
    """
    if isinstance(error, UnicodeDecodeError):
        return "bytes that are no UTF-8"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _as_float(value: float) -> float:
    """Return a number as a double; a whole number too long for one is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown(value: object) -> str:
    """Show a value as the operator wrote it, or nearly so, and no more of it than a line holds."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quoted(value)
    try:
        text = str(value)
    except (ValueError, RecursionError):  # a whole number of more digits than Python writes, a list nested too deep
        return "what is too long to be shown"
    return _cut(text)


def _quoted(text: str) -> str:
    return '"' + _cut(text.encode("unicode_escape").decode()) + '"'


def _cut(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"


def _nearest(value: object, among: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(value), among, n=1)
    return f": did you mean {near[0]}?" if near else ""
