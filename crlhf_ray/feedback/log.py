"""The ledger of marks where there is no annotation server: one Parquet file for each append, durable when it returns.

A file's name is its place in the log. A writer puts its rows into a temporary file, forces them to the disk, and links
that file to the next free name; linking fails if another process took the name first, and then the writer looks at what
the other one wrote and tries again. So several processes may append to one log, no reader ever sees half a file, and an
event is stored once however often it is sent.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.event_ids import EventIds, Hashes
from crlhf_ray.feedback.validation import validate

_SAID = ("item_id", "line", "annotator_id", "label")  # what an event says; when it was sent may differ in a retry


class AnnotationLog:
    """Annotations in a folder; a cursor counts its files. Ids are read when first needed, from files that are new.

    directory: made if missing; must be a file system with hard links (any local one, NFS).
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._forget()

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
            self._read_ids()
            new, hashes = self._ids.unseen(good["event_id"])
            if not new.all():
                self._check_same(good, new)
            if not new.any():
                return 0
            if self._write(good if new.all() else good.filter(pa.array(new)), hashes):
                return int(new.sum())

    def since(self, cursor: int) -> Iterator[tuple[pa.Table, int]]:
        """What was appended after `cursor` (0 at first), one append at a time, each with the cursor behind it."""
        while self._path(cursor).exists():
            number, table = self._newest
            yield table if number == cursor else self._file(cursor), cursor + 1
            cursor += 1

    def read(self) -> pa.Table:
        """All events in the order in which they were appended, as ANNOTATION_SCHEMA."""
        return pa.concat_tables([ANNOTATION_SCHEMA.empty_table(), *(table for table, _ in self.since(0))])

    def cut(self, cursor: int) -> None:
        """Take away the events appended after `cursor`. For events that come again: simulated ones of rounds that are
        played again. Not while anybody appends."""
        end = cursor
        while self._path(end).exists():
            end += 1
        for number in reversed(range(cursor, end)):  # the last first: what is left has no gap
            self._path(number).unlink()
        self._forget()

    def __len__(self) -> int:
        """How many events the log holds."""
        self._read_ids()
        return len(self._ids)

    def _forget(self) -> None:
        self._ids = EventIds()
        self._files = 0  # of files 0 .. _files - 1 the ids are known
        self._newest = -1, ANNOTATION_SCHEMA.empty_table()  # what was appended last, so that it need not be read

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:010d}.parquet"

    def _file(self, number: int, columns: list[str] | None = None, ids: pa.Array | None = None) -> pa.Table:
        """A file's rows, or those with these ids. Raises DataError where the disk damaged it."""
        only = None if ids is None else pc.field("event_id").isin(ids)
        try:
            return pq.read_table(
                self._path(number),
                schema=ANNOTATION_SCHEMA,
                columns=columns,
                filters=only,
                page_checksum_verification=True,
            )
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"the disk damaged this part of the log ({error}); restore the folder from a backup",
                file=str(self._path(number)),
            ) from error

    def _read_ids(self) -> None:
        while self._path(self._files).exists():
            self._ids.add(self._ids.unseen(self._file(self._files, ["event_id"])["event_id"])[1])
            self._files += 1

    def _check_same(self, table: pa.Table, new: np.ndarray) -> None:
        """An event sent again must say what it said before."""
        columns = ["event_id", *_SAID]
        rows = np.flatnonzero(~new)
        again = table.select(columns).take(pa.array(rows))
        wanted = again["event_id"].combine_chunks()
        said: dict[str, tuple[object, ...]] = {}
        here = table.select(columns).filter(pc.and_(pa.array(new), pc.is_in(table["event_id"], wanted)))
        # the newest first: retries are of what was sent last
        for stored in chain([here], (self._file(n, columns, wanted) for n in reversed(range(self._files)))):
            said |= {event: tuple(rest) for event, *rest in zip(*stored.to_pydict().values(), strict=True)}
            if len(said) == pc.count_distinct(wanted).as_py():
                break
        for row, (event, *now) in zip(rows, zip(*again.to_pydict().values(), strict=True), strict=True):
            if said[event] != tuple(now):
                raise DataError(
                    f"event {event!r} says {dict(zip(_SAID, now, strict=True))}, but an event of that id says "
                    f"{dict(zip(_SAID, said[event], strict=True))}: give a correction an event_id of its own",
                    file="appended table",
                    row=int(row),
                    field="event_id",
                )

    def _write(self, table: pa.Table, hashes: Hashes) -> bool:
        """Put `table` at the end of the log; False if another writer was quicker."""
        temporary = self.directory / f".{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                # Ids are all different: a dictionary of them, or their least and greatest, would cost time for nothing.
                pq.write_table(
                    table,
                    file,
                    use_dictionary=["source"],
                    write_statistics=False,
                    compression="lz4",
                    write_page_checksum=True,
                )
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
        self._ids.add(hashes)
        self._newest = self._files, table
        self._files += 1
        return True
