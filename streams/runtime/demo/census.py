"""What do the demonstration's model and its world look like? People of the census, a classifier's score, and the truth.

The file beside holds a few columns of the American Community Survey for Massachusetts, 2015 and 2016, with the scores
of a classifier fitted on 2015 (NOTICE names both sources). Rows stand in the survey's own order. Scores are rounded
to four decimals, on the side of one half where the classifier's answer is.
"""

from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet

Year = Literal[2015, 2016]
Codes = npt.NDArray[np.int16]

THRESHOLD = 0.5
CATEGORIES = ("SCHL", "MAR", "RELP")
SEGMENTS = ("SEX", "RAC1P")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Census:
    """One year; every array has one entry a person.

    Parameters
    ----------
    age
        Whole years, 0 to 94.
    codes
        The survey's codes by column: schooling, marital status, relationship to the householder, sex, race.
    score
        The classifier's probability that the person is employed.
    employed
        Whether the person was.
    """

    year: Year
    age: Codes
    codes: dict[str, Codes]
    score: npt.NDArray[np.float64]
    employed: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.age)


def census(year: Year) -> Census:
    """Read one year.

    >>> people = census(2016)
    >>> len(people), float(((people.score >= THRESHOLD) == people.employed).mean())
    (69126, 0.825333)
    """
    with as_file(files(__package__) / "census.parquet") as path:
        table = pyarrow.parquet.read_table(path, filters=[("year", "=", year)])
    columns = {name: table[name].to_numpy().astype(np.int16) for name in table.column_names}
    return Census(
        year=year,
        age=columns["AGEP"],
        codes={name: columns[name] for name in (*CATEGORIES, *SEGMENTS)},
        score=columns["score"] / 10_000,
        employed=columns["employed"] == 1,
    )
