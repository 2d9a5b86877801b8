"""What became of each output? One outcome, labelled or expired; in memory only, in columns."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcomes:
    """Outcomes of one model, made together; every array has `n` entries.

    Parameters
    ----------
    id_hash
        64-bit hash of (model, prediction id).
    made_at_ms
        When the output was made.
    tick_ms
        Start of the tick in which the outcome counts.
    labelled
        Whether a label came in time; where not, it expired.
    delay_ms
        How long after the output the label was known, at least 0; -1 where it expired.
    wrong
        Whether the answer was wrong; False where it expired.
    """

    model: str
    id_hash: npt.NDArray[np.uint64]
    made_at_ms: Ints
    tick_ms: Ints
    labelled: npt.NDArray[np.bool_]
    delay_ms: Ints
    wrong: npt.NDArray[np.bool_]
