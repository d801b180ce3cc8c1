"""Votes out of the exports of annotation tools: one function for each tool, from its parsed file to plain records.

A record has ``task``, ``worker`` and ``label`` (None: the person abstained), and ``time`` where the export has one.
Layouts: Label Studio's JSON export, Argilla's records as JSON, peerannot's ``answers.json``, Toloka's TSV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crlhf_ray.errors import DataError

Records = list[dict[str, Any]]


def label_studio(tasks: list[dict[str, Any]], label: str | None, file: str, notes: list[str]) -> Records:
    """Label Studio: a list of tasks, each with ``annotations``, whose ``result`` holds one entry a control.

    label: the control (``from_name``) that is meant; needed where there are several. Cancelled annotations are left out
    and counted; an annotation without a result for the control abstains. Raises `DataError` where the control is not
    clear.
    """
    found = [(task, annotation) for task in tasks for annotation in task.get("annotations") or ()]
    valid = [(task, a) for task, a in found if not a.get("was_cancelled")]
    controls = sorted(
        {str(entry["from_name"]) for _, a in valid for entry in a.get("result") or () if "value" in entry}
    )
    control = _one(controls, label, "control", file)
    if len(valid) < len(found):
        notes.append(f"{file}: {len(found) - len(valid):,} cancelled annotations left out")
    records = []
    for task, annotation in valid:
        values = [e["value"] for e in annotation.get("result") or () if e.get("from_name") == control and "value" in e]
        worker = annotation.get("completed_by")
        if isinstance(worker, dict):
            worker = worker.get("email") or worker.get("id")
        given = [_inner(value) for value in values]
        record = {"task": task.get("id"), "worker": worker, "label": given[0] if len(given) == 1 else given or None}
        if time := annotation.get("updated_at") or annotation.get("created_at"):
            record["time"] = time
        records.append(record)
    return records


def argilla(rows: list[dict[str, Any]], label: str | None, file: str, notes: list[str]) -> Records:
    """Argilla: a list of records, each with ``id`` and ``responses``: by question, a list of value and ``user_id``.

    label: the question that is meant; needed where there are several. Draft and discarded responses are left out and
    counted. Raises `DataError` where the question is not clear.
    """
    question = _one(sorted({name for row in rows for name in row.get("responses") or ()}), label, "question", file)
    records, dropped = [], 0
    for row in rows:
        for response in (row.get("responses") or {}).get(question) or ():
            if response.get("status") in ("draft", "discarded"):
                dropped += 1
                continue
            records.append({"task": row.get("id"), "worker": response.get("user_id"), "label": response.get("value")})
    if dropped:
        notes.append(f"{file}: {dropped:,} draft or discarded responses left out")
    return records


def peerannot(answers: dict[str, Any]) -> Records:
    """peerannot: ``{task: {worker: label}}``."""
    return [
        {"task": task, "worker": worker, "label": label}
        for task, given in answers.items()
        for worker, label in given.items()
    ]


def toloka(names: Sequence[str], label: str | None, file: str) -> dict[str, str]:
    """Toloka's assignments: which columns are meant, by ours.

    The task is the only ``INPUT:`` column, else ``ASSIGNMENT:task_id``; the label the only ``OUTPUT:`` column, or the
    one that ``label`` names, with its prefix or without. Raises `DataError` where the label is not clear.
    """
    outputs = [name for name in names if name.startswith("OUTPUT:")]
    if label and f"OUTPUT:{label}" in outputs:
        label = f"OUTPUT:{label}"
    inputs = [name for name in names if name.startswith("INPUT:")]
    found = {"worker": "ASSIGNMENT:worker_id", "label": label or _one(outputs, None, "column", file)}
    if len(inputs) == 1 or "ASSIGNMENT:task_id" in names:
        found["task"] = inputs[0] if len(inputs) == 1 else "ASSIGNMENT:task_id"
    if "ASSIGNMENT:submitted" in names:
        found["time"] = "ASSIGNMENT:submitted"
    return found


def records_of(content: Any, label: str | None, file: str, notes: list[str]) -> Records:
    """The votes in a parsed JSON file: one of the exports above, or a list of objects with task, worker and label.

    Raises `DataError` where it is none of these.
    """
    if isinstance(content, dict) and content and all(isinstance(given, dict) for given in content.values()):
        return peerannot(content)
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        if any("annotations" in row for row in content):
            return label_studio(content, label, file, notes)
        if any("responses" in row for row in content):
            return argilla(content, label, file, notes)
        return content
    raise DataError(
        "is not an export of Label Studio, Argilla or peerannot, nor a list of objects with task, worker and label; "
        "export it again, or convert it to CSV",
        file=file,
    )


def _one(names: list[str], wanted: str | None, what: str, file: str) -> str:
    if wanted is not None and wanted in names:
        return wanted
    if wanted is None and len(names) == 1:
        return names[0]
    has = ", ".join(names[:20]) or "none"
    problem = f"has no {what} {wanted!r}" if wanted else f"has {len(names)} {what}s that could be the label"
    raise DataError(f"it {problem} (there are: {has}); name the one meant with --label", file=file, field="label")


def _inner(value: Any) -> Any:
    """What a control's value holds, for example the one choice in ``{"choices": ["good"]}``."""
    inner = next((value[name] for name in ("choices", "rating", "number", "text", "taxonomy") if name in value), value)
    return inner[0] if isinstance(inner, list) and len(inner) == 1 else inner
