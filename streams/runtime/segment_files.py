"""Where do cold rows lie? In files which are mapped, so that the page cache and not our memory holds them.

A run is written aside, forced to disk and renamed, with its length and CRC in front. A file that is torn, or whose CRC
does not fit, is a missing run: its rows are in the changelog, from which every owner restores.

A disk that takes no more does not lose rows: such a run stays in memory, and `refusing` tells the host to read nothing
further until `try_again` succeeds.
"""

import mmap
import os
import shutil
import struct
import zlib
from pathlib import Path

from schemas.fields import MalformedRecordError

_HEAD = struct.Struct("<8sQII")  # what it is, length, CRC-32, nothing: 24 bytes, so that columns stay aligned
_MARK = b"tocsin 1"
_PROBE = ".probe"


class SegmentFiles:
    """Cold runs of one partition under one owner, in a folder of their own.

    >>> import tempfile
    >>> files = SegmentFiles(Path(tempfile.mkdtemp()) / "3" / "1")
    >>> files.put("7", b"rows")
    >>> bytes(files.open("7"))
    b'rows'
    >>> files.drop("7"); files.close()

    Parameters
    ----------
    folder
        Made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, bytes] = {}
        self.refusing = False
        """Whether the disk took no more."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            self.refusing = True

    def _path(self, name: str) -> Path:
        assert "/" not in name, name
        return self._folder / f"{name}.run"

    def put(self, name: str, value: bytes) -> None:
        """Write one run; one of that name is replaced."""
        path = self._path(name)
        aside = path.with_suffix(".new")
        try:
            with aside.open("wb") as file:
                file.write(_HEAD.pack(_MARK, len(value), zlib.crc32(value), 0))
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError:
            self.refusing = True
            self._kept[name] = value
            return
        self._kept.pop(name, None)

    def open(self, name: str) -> bytes | memoryview:
        """Return the run's bytes, mapped.

        Raises
        ------
        MalformedRecordError
            The run is missing: no file, or one that is torn or does not fit its CRC. Restore from the changelog.
        """
        if name in self._kept:
            return self._kept[name]
        try:
            with self._path(name).open("rb") as file:
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise MalformedRecordError("run", "", "a file", type(error).__name__) from None
        if len(mapped) < _HEAD.size:
            raise MalformedRecordError("run", "", "a head of 24 bytes", f"{len(mapped)} bytes")
        mark, length, crc, _ = _HEAD.unpack_from(mapped)
        value = mapped[_HEAD.size :]
        if mark != _MARK or length != len(value) or crc != zlib.crc32(value):
            raise MalformedRecordError("run", "", "bytes that fit their length and CRC-32", f"{len(value)} that do not")
        return value

    def drop(self, name: str) -> None:
        """Forget a run; who still looks at its bytes may go on."""
        if self._kept.pop(name, None) is None:
            self._path(name).unlink(missing_ok=True)

    def try_again(self) -> bool:
        """Try whether the disk takes a write again; return whether it does."""
        probe = self._folder / _PROBE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with probe.open("wb") as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
            probe.unlink()
        except OSError:
            return False
        self.refusing = False
        return True

    def close(self) -> None:
        """Remove the folder: an owner that comes later restores from the changelog."""
        self._kept.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def segment_files(folder: Path, partition: int, epoch: int) -> SegmentFiles:
    """Return an owner's empty store, and remove what owners before it left.

    An owner that was fenced and lives on, on this machine, finds its folder gone at its next run: then the disk refuses,
    it reads no more, and ends at its next checkpoint.
    """
    own = folder / str(partition)
    if own.is_dir():
        for left in own.iterdir():
            if left.name.isdigit() and int(left.name) <= epoch:
                shutil.rmtree(left, ignore_errors=True)
    return SegmentFiles(own / str(epoch))
