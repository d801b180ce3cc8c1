"""Snapshots of a state, in a folder that one process owns. They save time and hold no mark: the ledger has those.

``snapshot-N.npz`` of the highest N counts. A file gets that name only when it is whole and on the disk.
"""

from __future__ import annotations

import fcntl
import os
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from crlhf_ray.errors import DataError, ResourceError


class Snapshots:
    """The snapshots in ``folder``. A second owner is refused after ``lock_seconds``."""

    def __init__(self, folder: str | Path, *, lock_seconds: float = 10.0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        deadline = time.monotonic() + lock_seconds
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ResourceError(
                        f"{self.folder} is in use by another process; end that one, or give this one its own folder"
                    ) from None
                time.sleep(0.05)
        for leftover in self.folder.glob("*.part"):
            leftover.unlink()
        self._number = max((int(p.stem.split("-")[1]) for p in self.folder.glob("snapshot-*.npz")), default=0)

    def newest(self) -> dict[str, np.ndarray] | None:
        """The arrays of the newest snapshot, or None before the first. Raises `DataError` where it is damaged."""
        return read_snapshot(self._path(self._number)) if self._number else None

    def write(self, arrays: dict[str, np.ndarray]) -> Path:
        """Write a state; on return it is on the disk, and older files are gone. Returns its file, which is never
        written to again."""
        path = self._path(self._number + 1)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        self._path(self._number).unlink(missing_ok=True)
        self._number += 1
        return path

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    def _path(self, number: int) -> Path:
        return self.folder / f"snapshot-{number}.npz"


def read_snapshot(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a snapshot's file. Raises `DataError` where it is missing or damaged."""
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise DataError(
            "no such file: it was deleted, or an older version made the checkpoint; start a new run",
            file=str(path),
        ) from None
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
        raise DataError(
            f"the disk damaged this snapshot ({error}). No mark is lost with it: delete its folder, and the marks are "
            "counted again (crlhf serve), or continue the run from its checkpoint with --resume",
            file=str(path),
        ) from error


def go_back(folder: str | Path, snapshot: Path | None) -> int:
    """Put a snapshot's copy in the place of what the folder holds. Returns the cursor of the actor's own ledger that it
    stands at.

    None leaves the folder without any, at 0. For a folder that nobody uses: raises ResourceError where somebody does,
    and DataError where there is no such copy.
    """
    arrays = read_snapshot(snapshot) if snapshot is not None else None
    owned = Snapshots(folder)
    try:
        if arrays is not None:
            owned.write(arrays)
            return int(arrays["position"][0])
        for path in owned.folder.glob("snapshot-*.npz"):
            path.unlink()
        return 0
    finally:
        owned.close()


def pack_strings(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """``(offsets, bytes)`` of a list of strings, as Arrow lays them out."""
    array = pa.array(names, pa.large_string())
    _, offsets, data = array.buffers()
    content = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return np.frombuffer(offsets, np.int64)[: len(names) + 1], content


def unpack_strings(offsets: np.ndarray, content: np.ndarray) -> list[str]:
    """What `pack_strings` packed."""
    n = max(len(offsets) - 1, 0)
    return pa.LargeStringArray.from_buffers(
        n, pa.py_buffer(offsets.tobytes()), pa.py_buffer(content.tobytes())
    ).to_pylist()
