"""Durable records on one disk: a log that is on the platter before `append` returns, and snapshots that shorten it.

Layout of the folder: ``snapshot-N.npz`` is the state before ``log-N``; both of the highest complete N count. A frame of
the log is ``magic, kind, length, crc32 of the payload, crc32 of the four before, payload``; a frame that a crash cut
short was never acknowledged, and is cut off at recovery into ``cut-N-BYTE``. Any other damage is an error, because
acknowledged events would be lost with it.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from crlhf_ray.errors import DataError, ResourceError

_HEADER, _MAGIC = struct.Struct("<4sIQII"), b"CRJ2"


class Journal:
    """One writer's log and snapshots in ``folder``. A second writer is refused after ``lock_seconds``."""

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
        self.number = max((int(p.stem.split("-")[1]) for p in self.folder.glob("snapshot-*.npz")), default=0)
        self._log: BinaryIO | None = None

    def snapshot(self) -> dict[str, np.ndarray] | None:
        """The arrays of the newest snapshot, or None before the first."""
        if self.number == 0:
            return None
        with np.load(self._snapshot_path(self.number)) as arrays:
            return dict(arrays)

    def replay(self) -> Iterator[tuple[int, pa.Table]]:
        """``(kind, table)`` of each record since the snapshot, oldest first; then the log is ready for `append`.

        Raises `DataError` for a damaged record, unless a crash may have cut it short: that one is kept beside the log.
        """
        path = self._log_path(self.number)
        end = 0
        if path.exists():
            size = path.stat().st_size
            with path.open("rb") as log:
                while end < size and (record := _record_at(log, end, size)) is not None:
                    kind, payload = record
                    yield kind, pa.ipc.open_stream(payload).read_all()
                    end = log.tell()
                if end < size:
                    log.seek(end)
                    self._keep_cut(end, log.read())
        self._open_log(end)

    def append(self, kind: int, table: pa.Table) -> None:
        """Write one record; on return it is on disk."""
        assert self._log is not None, "replay first"
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        payload = sink.getbuffer()
        start = self._log.tell()
        try:
            header = _HEADER.pack(_MAGIC, kind, len(payload), zlib.crc32(payload), 0)[:-4]
            self._log.write(header + struct.pack("<I", zlib.crc32(header)))
            self._log.write(payload)
            self._log.flush()
            os.fsync(self._log.fileno())
        except OSError:  # a full disk: what was not acknowledged must not stay half written
            self._log.seek(start)
            self._log.truncate()
            raise

    def write_snapshot(self, arrays: dict[str, np.ndarray]) -> Path:
        """Write the whole state and start a new, empty log; older files go once the new ones are safe.

        Returns the snapshot's file, which is never written to again.
        """
        number = self.number + 1
        path, part = self._snapshot_path(number), self.folder / f"snapshot-{number}.part"
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        self._sync_folder()
        old, self.number = self.number, number
        self._open_log(0)
        self._snapshot_path(old).unlink(missing_ok=True)
        self._log_path(old).unlink(missing_ok=True)
        return path

    def close(self) -> None:
        """Let go of the folder."""
        if self._log is not None:
            self._log.close()
        self._lock.close()

    def _keep_cut(self, end: int, tail: bytes) -> None:
        """Copy what is about to be cut off the log to a file of its own."""
        path = self.folder / f"cut-{self.number}-{end}"
        if not path.exists() or path.read_bytes() != tail:
            while path.exists():
                path = path.with_name(path.name + "x")
            with path.open("xb") as copy:
                copy.write(tail)
                copy.flush()
                os.fsync(copy.fileno())
            self._sync_folder()
        _LOG.warning(
            "%s: a crash cut its last record short; it was never acknowledged, and is kept in %s", self.folder, path
        )

    def _open_log(self, end: int) -> None:
        if self._log is not None:
            self._log.close()
        path = self._log_path(self.number)
        self._log = path.open("r+b" if path.exists() else "x+b")
        self._log.truncate(end)
        self._log.seek(end)
        os.fsync(self._log.fileno())
        self._sync_folder()

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _snapshot_path(self, number: int) -> Path:
        return self.folder / f"snapshot-{number}.npz"

    def _log_path(self, number: int) -> Path:
        return self.folder / f"log-{number}"


def go_back(folder: str | Path, snapshot: Path | None) -> None:
    """Put the state of a snapshot's copy in the place of what the folder holds; None leaves the folder without any.

    For a folder that nobody uses: raises ResourceError where somebody does, and DataError where there is no such copy.
    """
    if snapshot is not None and not snapshot.is_file():
        raise DataError(
            "there is no such file: it was deleted, or an older version made the checkpoint; start a new run",
            file=str(snapshot),
        )
    journal = Journal(folder)
    try:
        if snapshot is not None:
            with np.load(snapshot) as arrays:
                journal.write_snapshot(dict(arrays))
        else:
            for path in [*journal.folder.glob("snapshot-*.npz"), *journal.folder.glob("log-*")]:
                path.unlink()
    finally:
        journal.close()


def _record_at(log: BinaryIO, at: int, size: int) -> tuple[int, bytes] | None:
    """``(kind, payload)`` of the record that starts at this byte, or None where it was cut short and is the last."""

    def damaged(what: str) -> DataError:
        return DataError(_DAMAGED.format(what, at), file=log.name)

    log.seek(at)
    header = log.read(4)
    if len(header) == 4 and header != _MAGIC:
        raise damaged("no record starts at")
    header += log.read(_HEADER.size - len(header))
    if len(header) < _HEADER.size:
        return None
    if not _header_holds(header):
        raise damaged("a damaged header at")
    kind, length, crc = _HEADER.unpack(header)[1:4]
    end = log.tell() + length
    if end > size:
        rest = log.read()
        if zlib.crc32(rest) == crc or _holds_a_record(rest):
            raise damaged("a wrong length at")
        return None
    payload = log.read(length)
    if zlib.crc32(payload) == crc:
        return kind, payload
    if end < size:
        raise damaged("a wrong checksum at")
    return None


def _header_holds(header: bytes) -> bool:
    return zlib.crc32(header[:-4]) == int.from_bytes(header[-4:], "little")


def _holds_a_record(content: bytes) -> bool:
    """Whether a record starts anywhere in here; a name that only looks like the start of one does not count."""
    at = content.find(_MAGIC)
    while at >= 0:
        header = content[at : at + _HEADER.size]
        if len(header) == _HEADER.size and _header_holds(header):
            return True
        at = content.find(_MAGIC, at + 1)
    return False


_LOG = logging.getLogger(__name__)
_DAMAGED = "{} byte {}: the disk damaged it; restore the folder from a backup, or rebuild it from the annotation log"


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
