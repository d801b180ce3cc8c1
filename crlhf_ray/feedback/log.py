"""The append-only log of annotations: one Parquet file for each append, durable before `append` returns.

A file's name is its place in the log. A writer puts its rows into a temporary file, forces them to the disk, and links
that file to the next free name; linking fails if another process took the name first, and then the writer looks at what
the other one wrote and tries again. So several processes may append to one log, no reader ever sees half a file, and an
event is stored once however often it is sent.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.validation import validate

_SAID = ("item_id", "line", "annotator_id", "label")  # what an event says; when it was sent may differ in a retry


class AnnotationLog:
    """Annotations in a folder. The ids are read when first needed, and then only from files that are new.

    directory: made if missing; must be a file system with hard links (any local one, NFS).
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._file_of: dict[str, int] = {}  # event_id -> number of its file
        self._files = 0  # files 0 .. _files - 1 are in the index

    def append(self, table: pa.Table) -> int:
        """Store the events of `table` that the log does not hold yet; returns how many those are.

        Returns after the rows are on the disk. An event sent again is left out, so a retry is safe. Raises DataError if
        a row does not fit ANNOTATION_SCHEMA, or if an event_id comes with another item, line, annotator or label than
        before (a correction is a new event with an id of its own); then nothing of the table is stored.
        """
        good, rejected = validate(table)
        if rejected.num_rows:
            first = rejected.slice(0, 1).to_pylist()[0]
            raise DataError(
                f"{first['value']} cannot be stored: {first['remedy']} ({rejected.num_rows} problems in all)",
                file="appended table",
                row=first["row"],
                field=first["field"],
            )
        while True:
            self._refresh()
            new = self._unknown(good)
            if not new.num_rows:
                return 0
            if self._write(new):
                return new.num_rows

    def read(self) -> pa.Table:
        """All events in the order in which they were appended, as ANNOTATION_SCHEMA."""
        return self.since(0)[0]

    def since(self, cursor: int) -> tuple[pa.Table, int]:
        """The events appended after `cursor` (0 at first), and the cursor that goes on from there."""
        end = self._end(cursor)
        tables = [pq.read_table(self._path(n), schema=ANNOTATION_SCHEMA) for n in range(cursor, end)]
        return (pa.concat_tables(tables) if tables else ANNOTATION_SCHEMA.empty_table()), end

    def end(self) -> int:
        """The cursor behind the newest event."""
        return self._end(self._files)

    def cut(self, cursor: int) -> None:
        """Take away the events appended after `cursor`. For events that come again: simulated ones of rounds that are
        played again. Not while anybody appends."""
        for number in reversed(range(cursor, self._end(cursor))):  # the last first: what is left has no gap
            self._path(number).unlink()
        self._file_of = {event: number for event, number in self._file_of.items() if number < cursor}
        self._files = min(self._files, cursor)

    def files(self, cursor: int = 0) -> list[Path]:
        """The Parquet files appended after `cursor`, in order; what `read_annotations` takes."""
        return [self._path(number) for number in range(cursor, self._end(cursor))]

    def __len__(self) -> int:
        """How many events the log holds."""
        self._refresh()
        return len(self._file_of)

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:010d}.parquet"

    def _end(self, start: int) -> int:
        while self._path(start).exists():
            start += 1
        return start

    def _refresh(self) -> None:
        while self._path(self._files).exists():
            ids = pq.read_table(self._path(self._files), columns=["event_id"])["event_id"].to_pylist()
            self._file_of.update(dict.fromkeys(ids, self._files))
            self._files += 1

    def _unknown(self, table: pa.Table) -> pa.Table:
        first: dict[str, int] = {}
        again: list[int] = []
        for row, event in enumerate(table["event_id"].to_pylist()):
            if event in self._file_of or event in first:
                again.append(row)
            else:
                first[event] = row
        if again:
            self._check_same(table, first, again)
            table = table.take(pa.array(first.values(), pa.int64()))
        return table

    def _check_same(self, table: pa.Table, first: dict[str, int], again: list[int]) -> None:
        """An event sent again must say what it said before."""
        repeats = table.take(pa.array(again, pa.int64()))
        ids = repeats["event_id"].to_pylist()
        said = {event: tuple(table[c][row].as_py() for c in _SAID) for event, row in first.items() if event in set(ids)}
        for number in {self._file_of[event] for event in ids if event in self._file_of}:
            stored = pq.read_table(self._path(number), columns=["event_id", *_SAID])
            said.update(
                zip(
                    stored["event_id"].to_pylist(),
                    zip(*(stored[c].to_pylist() for c in _SAID), strict=True),
                    strict=True,
                )
            )
        for row, event, now in zip(again, ids, zip(*(repeats[c].to_pylist() for c in _SAID), strict=True), strict=True):
            if said[event] != now:
                raise DataError(
                    f"event {event!r} says {dict(zip(_SAID, now, strict=True))}, but an event of that id says "
                    f"{dict(zip(_SAID, said[event], strict=True))}: give a correction an event_id of its own",
                    file="appended table",
                    row=row,
                    field="event_id",
                )

    def _write(self, table: pa.Table) -> bool:
        """Put `table` at the end of the log; False if another writer was quicker."""
        temporary = self.directory / f".{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, self._path(self._files))
            except FileExistsError:
                return False
        finally:
            temporary.unlink(missing_ok=True)
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._file_of.update(dict.fromkeys(table["event_id"].to_pylist(), self._files))
        self._files += 1
        return True
