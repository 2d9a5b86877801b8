"""Where do cold rows lie? In files which are mapped, so that the page cache and not our memory holds them.

A run is written aside, forced to disk and renamed, with its length and CRC in front. A file that is torn, or whose CRC
does not fit, is a missing run: its rows are in the changelog, from which every owner restores.

A disk that takes no more does not lose rows: such a run stays in memory, and `refusing` tells the host to read nothing
further until `try_again` succeeds. What it does not let go of is removed then.

Processes may share a folder, also those of other deployments: each owner of a partition has a folder of its own below it,
under a name that no other has, and holds a lock on it while it lives. Only what nobody holds is removed.
"""

import errno
import fcntl
import mmap
import os
import re
import shutil
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

from schemas.fields import MalformedRecordError

_HEAD = struct.Struct("<8sQII")  # what it is, length, CRC-32, nothing: 24 bytes, so that columns stay aligned
_MARK = b"tocsin 1"
_PROBE = ".probe"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OWNER = re.compile(r"\d+-\d+")


class FolderError(Exception):
    """The folder of cold rows cannot be made or written; the message says what to do."""


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
        self._undropped: set[str] = set()
        self._lock: int | None = None
        self.refusing = False
        """Whether the disk took no more."""
        self.why = ""
        """What it said last when it took no more."""
        try:
            self._make()
        except OSError as error:
            self._refused(error)

    def _refused(self, error: OSError) -> None:
        self.refusing, self.why = True, _cause(error)

    def _make(self) -> None:
        """Make the folder, and hold it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._release()
        self._lock = os.open(self._folder, os.O_RDONLY)
        with suppress(OSError):  # where no locks are, or somebody removes it just now: the next write will tell
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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
        except OSError as error:
            self._refused(error)
            self._kept[name] = value
            return
        self._kept.pop(name, None)
        self._undropped.discard(name)

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
            try:
                self._path(name).unlink(missing_ok=True)
            except OSError as error:
                self._refused(error)
                self._undropped.add(name)

    def try_again(self) -> bool:
        """Try whether the disk takes a write again; return whether it does."""
        probe = self._folder / _PROBE
        try:
            self._make()
            with probe.open("wb") as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
            probe.unlink()
            for name in list(self._undropped):
                self._path(name).unlink(missing_ok=True)
                self._undropped.discard(name)
        except OSError as error:
            self._refused(error)
            return False
        self.refusing = False
        return True

    def close(self) -> None:
        """Remove the folder: an owner that comes later restores from the changelog."""
        self._kept.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._release()


def check_folder(folder: Path) -> None:
    """Make the folder, and see that it can be written; a disk that is merely full is waited for later.

    Raises
    ------
    FolderError
        It cannot be used, and waiting will not help.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        if error.errno not in _FULL:
            raise FolderError(
                f"join: cannot write into {folder.absolute()} ({_cause(error)}): choose another join.folder, or let this "
                "process write there"
            ) from None


def _cause(error: OSError) -> str:
    return error.strerror or str(error)


def segment_files(folder: Path, partition: int, epoch: int, owner: int) -> SegmentFiles:
    """Return an owner's empty store, and remove what owners that live no more have left of this partition.

    Parameters
    ----------
    epoch, owner
        Those of its claim: together they name one owner among all.
    """
    own = folder / str(partition)
    if own.is_dir():
        for left in own.iterdir():
            if _OWNER.fullmatch(left.name):
                _remove_if_nobody_holds(left)
    return SegmentFiles(own / f"{epoch}-{owner}")


def _remove_if_nobody_holds(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # its owner lives, and will remove it; or this disk has no locks, and nobody knows
    finally:
        os.close(lock)
