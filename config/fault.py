"""What is wrong with the settings, where, and what is to be done?

Exception
└── ValueError
    └── SettingsError    ours to mend: every fault of all sources at once
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Fault:
    """One fault of one setting.

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
    """

    source: str
    line: int
    setting: str
    expected: str
    got: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        what = f"{where}: {self.setting}" if self.setting else where
        return f"{what}: expected {self.expected}, got {self.got}; {self.remedy}"


class SettingsError(ValueError):
    """The settings cannot be used; nothing was started. Mend each line of the message: all faults are in it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(faults))
        super().__init__("\n".join(map(str, self.faults)))
