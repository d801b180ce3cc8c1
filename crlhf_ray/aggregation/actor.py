"""The consensus as a fold over a ledger of marks, back after a kill. A plain class; Ray only at the call site.

    aggregator = ray.remote(Aggregator).options(max_restarts=3, max_task_retries=3).remote(folder, settings, ledger)

    marks -> ledger (each once, in order) -> fold from the cursor on -> state -> consensus, reliability, alerts
                                                                         |
                                                                     snapshot: state and cursor

The ledger is the one place that holds marks. The state is made of it alone, and of known truth; a snapshot of it, with
the cursor that it stands at, saves folding everything again. Every method may be retried. Reliabilities persist over
rounds, and `consensus` weighs the votes by the reliabilities at the time of the question, so that what is learnt about
an annotator later also corrects what is said about earlier lines.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from scipy.special import expit
from scipy.stats import beta as beta_distribution

from crlhf_ray.aggregation.base import reliability_columns
from crlhf_ray.aggregation.coins import coin_of
from crlhf_ray.aggregation.crowd_alerts import MOST_FOR_PAIRS, crowd_alerts
from crlhf_ray.aggregation.encoding import Codebook, Votes, distinct
from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, CONSENSUS_SCHEMA, GOLD_SCHEMA
from crlhf_ray.aggregation.monitors import (
    Alert,
)
from crlhf_ray.aggregation.quality import krippendorff_alpha, pairwise_kappa
from crlhf_ray.aggregation.settings import AggregationSettings
from crlhf_ray.aggregation.snapshots import Snapshots, pack_strings, unpack_strings
from crlhf_ray.aggregation.state import NO_VOTES, CrowdState
from crlhf_ray.errors import ConfigError, DataError

__all__ = ["AggregationSettings", "Aggregator", "Alert"]

_LINE_BITS = 32


class Ledger(Protocol):
    """Every mark as one event, in one order. A cursor is a place in it; 0 is before the first mark."""

    def append(self, table: pa.Table) -> int:
        """Put marks on the disk; returns how many of them are new by their event id. Raises `DataError`."""
        ...

    def since(self, cursor: int) -> Iterator[tuple[pa.Table, int]]:
        """What was appended after a cursor, one append at a time, each with the cursor behind it."""
        ...


class Aggregator:
    """Consensus of a growing crowd. Snapshots lie in ``directory``; the constructor takes up the newest, and folds what
    the ledger has since.

    ledger: where `ingest` puts marks; `fold` takes those of another ledger, which somebody else reads. A mark is in one
    of the two.
    Raises `ConfigError` where the folder was made with other settings, `ResourceError` where another process holds it,
    and `DataError` where a snapshot or the ledger is damaged.
    """

    def __init__(
        self, directory: str | Path, settings: AggregationSettings | None = None, ledger: Ledger | None = None
    ):
        self.settings = settings or AggregationSettings()
        self.state = CrowdState(
            coin_of(self.settings),
            prior=None if self.settings.prior == "learnt" else self.settings.prior,
            learn_from=self.settings.learn_from,
            decay=self.settings.decay,
        )
        self._annotators, self._items, self._tasks = Codebook(), Codebook(), Codebook()
        self._keys = np.empty(0, np.int64)
        self._ledger = ledger
        self._own = self._position = self._marks = self._since_snapshot = self._duplicates = 0
        self._gold_unsaved = False
        #: One list for all copies: rates and their standard deviations when alerts were last asked for.
        self._last_look: list[tuple[np.ndarray, np.ndarray]] = []
        self._snapshots = Snapshots(directory)
        self._check_settings(Path(directory) / "settings.json")
        self._restore()
        self._catch_up()

    # -- taking in -----------------------------------------------------------------------------------------------

    def ingest(self, table: pa.Table) -> int:
        """Put marks into the ledger and fold them in; returns how many were new. On return they are on disk.

        A later mark (by created_at) of one annotator on one line supersedes. Unsure votes (label 0) are kept and weigh
        nothing. Raises what the ledger raises for an unusable row, and takes nothing in then.
        """
        assert self._ledger is not None, "this one has no ledger of its own: fold"
        count = self._ledger.append(table)
        self._duplicates += table.num_rows - count
        self._catch_up()
        if self._since_snapshot >= self.settings.snapshot_events:
            self.snapshot()
        return count

    def fold(self, table: pa.Table, after: int, upto: int) -> int:
        """Take in what the other ledger holds between two cursors; returns the cursor that the state stands at.

        Nothing is taken in where that is not ``after``: it was folded already, or something before it is missing, as
        after a restart from a snapshot. What follows the answer is wanted then.
        """
        if after == self._position:
            self._count_in(table)
            self._position = upto
        return self._position

    def position(self) -> int:
        """The other ledger's cursor up to which marks are folded in."""
        return self._position

    def _catch_up(self) -> None:
        if self._ledger is not None:
            for table, upto in self._ledger.since(self._own):
                self._count_in(table)
                self._own = upto

    def _count_in(self, table: pa.Table) -> None:
        if table.num_rows:
            self._apply_events(table.select(ANNOTATION_SCHEMA.names).cast(ANNOTATION_SCHEMA).combine_chunks())
        self._marks += table.num_rows
        self._since_snapshot += table.num_rows

    def add_gold(self, table: pa.Table) -> int:
        """Take in known truth (GOLD_SCHEMA), early or late; returns how many lines were new. Durable on return.

        Raises `DataError` where a line has two truths, in the table or against what is known.
        """
        table = _checked(table, GOLD_SCHEMA)
        truth = table["truth"].to_numpy()
        if (bad := (truth != 1) & (truth != -1)).any():
            row = int(np.argmax(bad))
            raise DataError(f"{truth[row]} is neither +1 (correct) nor -1 (wrong)", row=row, field="truth")
        local, names = distinct(table["item_id"])
        line = table["line"].to_numpy().astype(np.int64)
        items = self._items.encode(names, grow=False)[local] if len(names) else local
        tasks = self._tasks.encode((items << _LINE_BITS) | line, grow=False)  # an unknown item, -1, has no lines
        known = np.where(tasks >= 0, self.state.task_gold[tasks], 0)
        keys = (local << _LINE_BITS) | line
        order = np.argsort(keys, kind="stable")
        again = np.append(False, keys[order][1:] == keys[order][:-1])[: len(keys)]
        clash = (known != 0) & (known != truth)
        clash[order[1:]] |= again[1:] & (truth[order][1:] != truth[order][:-1])
        if clash.any():
            row = int(np.argmax(clash))
            item, line_number = table["item_id"][row].as_py(), table["line"][row].as_py()
            raise DataError(
                f"line {line_number} of item {item!r} was given the other truth before; keep the right one",
                row=row,
                field="truth",
            )
        fresh = known == 0
        fresh[order[again]] = False
        if fresh.any():
            self._apply_gold(table.filter(pa.array(fresh)))
            self._gold_unsaved = True
        if self._gold_unsaved:  # also by an earlier call, which failed at it
            self.snapshot()
        return int(fresh.sum())

    # -- answering -----------------------------------------------------------------------------------------------

    def consensus(self, item_ids: Sequence[str]) -> pa.Table:
        """CONSENSUS_SCHEMA of every line of these items that was voted on or has gold, by item as asked, then by line.

        Items nobody voted on have no rows. Known truth answers with 0 or 1.
        """
        rank = np.full(len(self._items), -1, np.int64)
        items = self._items.encode(list(item_ids), grow=False) if len(item_ids) else np.empty(0, np.int64)
        asked = items >= 0
        rank[items[asked]] = np.flatnonzero(asked)
        keys = self._task_keys()
        wanted = np.flatnonzero(rank[keys >> _LINE_BITS] >= 0)
        keys = keys[wanted]
        wanted = wanted[order := np.lexsort((keys & (2**_LINE_BITS - 1), rank[keys >> _LINE_BITS]))]
        keys = keys[order]
        names = pa.array(self._items.names, pa.string())
        log_odds = self.state.log_odds(wanted)
        return pa.table(
            {
                "item_id": names.take(pa.array(keys >> _LINE_BITS)),
                "line": pa.array((keys & (2**_LINE_BITS - 1)).astype(np.int32)),
                "p_correct": expit(log_odds),
                "labels": self.state.n_labels(wanted).astype(np.int32),
                "evidence": log_odds - self.state.prior_log_odds(),
            },
            schema=CONSENSUS_SCHEMA,
        )

    def share(self) -> dict[str, float]:
        """P(a line is correct) before any vote, which is the share of correct lines in the work, with its 95% interval:
        share, low, high. All the same where `aggregation.prior` is a number.

        It is in every ``p_correct`` of `consensus`, and not in ``evidence``. What is worked out from several lines, as
        P(a program is right), starts from the evidence, or the prior counts once for each line. Where log-odds were
        divided by a temperature T afterwards, the evidence in them is what is left without ``logit(share) / T``.
        """
        prior = float(expit(self.state.prior_log_odds()))
        if self.state.prior is not None:
            return {"share": prior, "low": prior, "high": prior}
        low, high = beta_distribution.ppf([0.025, 0.975], *self.state.share())
        return {"share": prior, "low": float(low), "high": float(high)}

    def reliability(self) -> pa.Table:
        """One row an annotator: annotator_id, sensitivity, specificity (each with _low and _high of the 95% credible
        interval), labels (unsure ones excluded) and gold_labels."""
        everyone = np.arange(self.state.n_workers)
        names = pa.array(self._annotators.names[: self.state.n_workers], pa.string())
        return pa.table({"annotator_id": names, **reliability_columns(self.state, everyone)})

    def alerts(self, labels_wanted: int = 3) -> list[Alert]:
        """What is wrong with the crowd as it stands, worst first; empty when nothing is.

        labels_wanted: marks that a line should have; 0 where a line may have as few as it likes.
        Annotator collapse compares with the call before. Collusion looks at all pairs of annotators, and is left out
        above `MOST_FOR_PAIRS` annotators. A pass over all votes: ask once a round.
        """
        names = [str(name) for name in self._annotators.names[: self.state.n_workers]]
        return crowd_alerts(names, self.state, self._last_look, labels_wanted)

    def agreement(self, sure: float) -> tuple[float | None, int]:
        """``(Krippendorff's alpha of all votes, lines without gold whose posterior is above sure or below 1 - sure)``.

        alpha is None where no line has two votes.
        """
        state, votes = self.state, self.state.votes()
        up = np.bincount(votes.task[votes.label > 0], minlength=state.n_tasks)
        down = np.bincount(votes.task[votes.label < 0], minlength=state.n_tasks)
        p = expit(state.log_odds(np.flatnonzero(state.task_gold[: state.n_tasks] == 0)))
        return krippendorff_alpha(np.stack([up, down], axis=1)), int(((p > sure) | (p < 1 - sure)).sum())

    def pairs(self) -> pa.Table:
        """A row for each two annotators with a line in common, by `pairwise_kappa`: first, second, lines, agreement and
        kappa (null where chance leaves nothing). Raises DataError above `MOST_FOR_PAIRS` annotators."""
        if self.state.n_workers > MOST_FOR_PAIRS:
            raise DataError(f"{self.state.n_workers} annotators are too many for pairs; {MOST_FOR_PAIRS} are the most")
        votes, names = self.state.votes(), np.array(self._annotators.names[: self.state.n_workers], object)
        pairs, lines, agreement, kappa = pairwise_kappa(votes.task, votes.worker, votes.label)
        first, second = (pa.array(names[side], pa.string()) for side in pairs.T)
        columns = {"first": first, "second": second, "lines": lines, "agreement": agreement}
        return pa.table({**columns, "kappa": pa.array(kappa, from_pandas=True)})

    def frozen(self) -> Aggregator:
        """A copy to ask at leisure while this one goes on learning. Names are shared: they only grow."""
        other = copy.copy(self)
        other.state = copy.deepcopy(self.state)
        return other

    def described(self) -> dict[str, Any]:
        """The settings that answers depend on, by name."""
        return self.settings.meaning()

    def stats(self) -> dict[str, int]:
        """Counts: events, duplicates refused, annotators, items, lines, labels, gold lines."""
        state = self.state
        return {
            "events": self._marks,
            "duplicates": self._duplicates,
            "annotators": state.n_workers,
            "items": len(self._items),
            "lines": state.n_tasks,
            "labels": int(state.worker_labels[: state.n_workers].sum()),
            "gold": int((state.task_gold[: state.n_tasks] != 0).sum()),
        }

    def digest(self) -> str:
        """A hash of everything that answers depend on: equal before a kill and after recovery."""
        content = hashlib.sha256()
        for name, values in sorted(self._arrays().items()):
            content.update(f"{name}:{values.dtype}:{values.shape};".encode())
            content.update(np.ascontiguousarray(values).data)
        return content.hexdigest()

    # -- keeping -------------------------------------------------------------------------------------------------

    def snapshot(self) -> Path:
        """Write the whole state, so that less of the ledger is folded again. Returns its file, which the next snapshot
        takes away; `snapshots.go_back` goes back to a copy of it."""
        path = self._snapshots.write(self._arrays())
        self._since_snapshot, self._gold_unsaved = 0, False
        return path

    def close(self) -> None:
        """Let go of the folder; the object must not be used afterwards."""
        self._snapshots.close()

    def _apply_events(self, table: pa.Table) -> None:
        confidence = table["confidence"].to_numpy() if self.settings.use_confidence else None
        weight = np.ones(table.num_rows) if confidence is None else np.nan_to_num(confidence.astype(float), nan=1.0)
        self.state.update(
            Votes(
                self._task_codes(table),
                self._annotators.encode(table["annotator_id"]),
                table["label"].to_numpy(),
                weight,
                table["created_at"].cast(pa.int64()).to_numpy(),
            )
        )

    def _apply_gold(self, table: pa.Table) -> None:
        self.state.update(NO_VOTES, self._task_codes(table), table["truth"].to_numpy())

    def _task_codes(self, table: pa.Table) -> np.ndarray:
        items = self._items.encode(table["item_id"])
        return self._tasks.encode((items << _LINE_BITS) | table["line"].to_numpy().astype(np.int64))

    def _task_keys(self) -> np.ndarray:
        """Item code and line of every task, by task code; appended to as tasks come."""
        known = len(self._keys)
        if known < len(self._tasks):
            self._keys = np.append(self._keys, np.array(self._tasks.names[known:], np.int64))
        return self._keys

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = self.state.to_arrays()
        arrays["annotator_offsets"], arrays["annotator_names"] = pack_strings(self._annotators.names)  # type: ignore[arg-type]
        arrays["item_offsets"], arrays["item_names"] = pack_strings(self._items.names)  # type: ignore[arg-type]
        arrays["task_keys"] = self._task_keys()
        arrays["position"] = np.array([self._own, self._position, self._marks])
        return arrays

    def _restore(self) -> None:
        arrays = self._snapshots.newest()
        if arrays is not None:
            self.state.load_arrays(arrays)
            self._annotators = Codebook(unpack_strings(arrays["annotator_offsets"], arrays["annotator_names"]))
            self._items = Codebook(unpack_strings(arrays["item_offsets"], arrays["item_names"]))
            self._tasks = Codebook(arrays["task_keys"].tolist())
            self._own, self._position, self._marks = arrays["position"].tolist()

    def _check_settings(self, path: Path) -> None:
        mine = json.dumps(self.described(), indent=2)
        if not path.exists():
            path.write_text(mine)
        elif path.read_text() != mine:
            raise ConfigError(
                f"{path.parent} was made with other settings ({path.read_text()}); give those, or another folder, "
                "into which the ledger is folded again"
            )


def _checked(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly this schema, in one chunk. `DataError` for a missing column or value, or a wrong type."""
    for field in schema:
        if field.name not in table.column_names:
            if not field.nullable:
                raise DataError(f"the table lacks it; it has {', '.join(table.column_names)}", field=field.name)
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        if not field.nullable and table[field.name].null_count:
            row = int(np.argmax(table[field.name].is_null().to_numpy()))
            raise DataError("is missing; fill it in or drop the row", row=row, field=field.name)
    try:
        return table.select(schema.names).cast(schema).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"does not fit {', '.join(f'{f.name}: {f.type}' for f in schema)}: {error}") from error
