"""What is wrong with the settings, where, and what is to be done?

Exception
└── ValueError
    └── SettingsError    ours to mend: every fault of all sources at once
"""

from collections.abc import Sequence
from dataclasses import dataclass

UNSHOWN = "something that is not shown, for it may hold a password"


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Fault:
    r"""One fault of one setting.

    Parameters
    ----------
    source
        File, environment variable or option that it came from.
    line
        Line of the file, from 1; 0 where there are no lines.
    setting
        Its dotted name, for instance `join.label_wait`; empty when the whole file is meant.
    expected, got, remedy
        What would have been right, what came, and what to do.

    Examples
    --------
    >>> print(Fault(source="a.toml", line=3, setting="join.tick", expected="a duration", got="10", remedy='write "10 s"'))
    a.toml:3: join.tick: expected a duration, got 10; write "10 s"

    It is one line, whatever a file is called:

    >>> print(Fault(source="a\n.toml", line=1, setting="", expected="TOML", got="none", remedy="mend it"))
    a\n.toml:1: expected TOML, got none; mend it

    What may hold a password is not shown:

    >>> print(Fault(source="a.toml", line=1, setting="kafka.broker", expected="HOST:PORT", got="ann:pw@b:1", remedy="mend it"))
    a.toml:1: kafka.broker: expected HOST:PORT, got something that is not shown, for it may hold a password; mend it
    """

    source: str
    line: int
    setting: str
    expected: str
    got: str
    remedy: str

    def __post_init__(self) -> None:
        if "@" in self.got or self.setting == "kafka.security":
            object.__setattr__(self, "got", UNSHOWN)

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        what = f"{where}: {self.setting}" if self.setting else where
        said = f"{what}: expected {self.expected}, got {self.got}; {self.remedy}"
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in said)


class SettingsError(ValueError):
    """The settings cannot be used; nothing was started. Mend each line of the message: all faults are in it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(faults))
        super().__init__("\n".join(map(str, self.faults)))
