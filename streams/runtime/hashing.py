"""Which number stands for an identity, a class, a content? Stable over processes, machines, versions and batches.

The 64-bit hash of an identity is a sum over its 8-byte words, each mixed under a key of its own place, so that words
of padding add nothing and the hash does not depend on the widest id of a batch; then length and model, mixed again.
All of it is arithmetic on columns: no Python for a row.

With 10⁸ identities the expected number of colliding pairs is n² / 2⁶⁵ = 2.7e-4.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.fields import class_name

Hashes = npt.NDArray[np.uint64]
Halves = npt.NDArray[np.uint32]

_WORD = 8
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: Weyl's sequence under the words' keys
_LOW = (1 << 64) - 1


def _mix(words: Hashes) -> Hashes:
    """Stafford's thirteenth variant of MurmurHash3's finalizer: every bit in moves half of the bits out."""
    words = words ^ (words >> np.uint64(30))
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def _matrix(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Lay texts out as rows of UTF-8, padded with 0 to a whole number of words; and their lengths in bytes."""
    joined = "".join(texts)
    if joined.isascii():
        data = joined.encode("ascii")
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    else:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        data = b"".join(encoded)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    longest = int(lengths.max())
    width = -(-max(longest, 1) // _WORD) * _WORD
    flat = np.frombuffer(data, np.uint8)
    rows = np.zeros((len(texts), width), np.uint8)
    if longest * len(texts) == len(data):
        rows[:, :longest] = flat.reshape(len(texts), longest)
    else:
        rows[np.arange(width) < lengths[:, None]] = flat
    return rows, lengths


def text_hashes(texts: Sequence[str]) -> Hashes:
    """64-bit hash of each text, `uint64[n]`.

    >>> [hex(int(one)) for one in text_hashes(["p1", "p1-with-a-longer-tail", "p1"])]
    ['0xbefa35246e7c6936', '0xbe87c136a696d68', '0xbefa35246e7c6936']
    """
    if not texts:
        return np.zeros(0, np.uint64)
    rows, lengths = _matrix(texts)
    words = rows.view("<u8")
    total = lengths.astype(np.uint64) * np.uint64(_GOLDEN)
    shortest = int(lengths.min())
    for column in range(words.shape[1]):  # over the 64 words of the longest id, not over rows
        key = np.uint64((column + 1) * _GOLDEN & _LOW)
        mixed = _mix(words[:, column] ^ key)
        if (column + 1) * _WORD > shortest:
            mixed[lengths <= column * _WORD] = 0
        total += mixed
    return _mix(total)


def id_hashes(models: Sequence[str], codes: npt.NDArray[np.int32], prediction_ids: Sequence[str]) -> Hashes:
    """64-bit hash of each identity (model, prediction id), `uint64[n]`; row `i` is of `models[codes[i]]`.

    Two models may share the ids of requests:

    >>> first, second = id_hashes(["fraud", "fraud-shadow"], np.array([0, 1], np.int32), ["p1", "p1"])
    >>> bool(first == second)
    False
    """
    return identity_hashes(models, codes, text_hashes(prediction_ids))


def identity_hashes(models: Sequence[str], codes: npt.NDArray[np.int32], ids: Hashes) -> Hashes:
    """Return `id_hashes` of ids that are hashed already (`text_hashes`)."""
    if not len(ids):
        return np.zeros(0, np.uint64)
    seeds = np.array([_digest(model, _WORD) for model in models], np.uint64)
    return _mix(ids ^ seeds[codes])


def _digest(text: str, size: int) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest(), "little")


def class_hash(value: str | float) -> int:
    """32-bit hash of a class, whether its name came as text or as number.

    >>> class_hash("1") == class_hash(1) == class_hash(1.0), class_hash("1") == class_hash("0")
    (True, False)
    """
    return _digest(class_name(value), 4)


def class_hashes(values: Iterable[str | float]) -> Halves:
    """`class_hash` of each value, `uint32[n]`."""
    return np.fromiter(map(class_hash, values), np.uint32)


def number_bits(values: npt.NDArray[np.float64]) -> Halves:
    """Bits of the float32 of each number, `uint32[n]`: what stands for a regression's answer."""
    return np.add(values, 0.0).astype(np.float32).view(np.uint32)  # -0.0 is 0.0


def content_hashes(prediction: Halves, score: npt.NDArray[np.float32], made_at_ms: npt.NDArray[np.int64]) -> Halves:
    """32-bit hash of what a model said, `uint32[n]`: tells a copy of an output from a conflict."""
    answers = prediction.astype(np.uint64) << np.uint64(32) | score.view(np.uint32).astype(np.uint64)
    mixed = _mix(_mix(answers ^ np.uint64(_GOLDEN)) ^ made_at_ms.astype(np.uint64))
    return (mixed >> np.uint64(32)).astype(np.uint32)


class Codes(dict[Any, int]):
    """Numbers for names in the order of their coming: `codes[name]` gives a new name the next number.

    Parameters
    ----------
    absent
        What stands for no name: it has -1.

    Examples
    --------
    >>> codes = Codes(absent=(None, ""))
    >>> codes.column(["a", "b", None, "a"]), codes.names()
    (array([ 0,  1, -1,  0], dtype=int32), ('a', 'b'))
    """

    def __init__(self, absent: tuple[Any, ...] = (None,)) -> None:
        super().__init__(dict.fromkeys(absent, -1))
        self._absent = len(absent)

    def __missing__(self, name: Any) -> int:  # noqa: ANN401 - whatever can be a key
        code = self[name] = len(self) - self._absent
        return code

    def column(self, names: Sequence[Any]) -> npt.NDArray[np.int32]:
        """Codes of a column, `int32[n]`."""
        return np.fromiter(map(self.__getitem__, names), np.int32, len(names))

    def names(self) -> tuple[Any, ...]:
        """Return the names in the order of their numbers."""
        return tuple(islice(self, self._absent, None))
