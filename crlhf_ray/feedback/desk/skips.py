"""Who skips programs more than others do, or skips a kind of them: work that is picked tells less of its picker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from scipy.stats import fisher_exact, mannwhitneyu

from crlhf_ray.aggregation.monitors import Alert

#: Fewer skipped programs than this say nothing.
LEAST = 5
#: What chance passes once in so many looks at one person.
RARE = 1e-4


def skip_alerts(handed_out: Iterable[tuple[str, bool, int]]) -> list[Alert]:
    """handed_out: (annotator, skipped, lines to mark) of each program that was submitted or skipped."""
    taken: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for annotator, was_skipped, lines in handed_out:
        taken[annotator][was_skipped].append(lines)
    kept_by_all, skipped_by_all = (sum(len(lists[which]) for lists in taken.values()) for which in (0, 1))
    often, picky = [], []
    for annotator, (kept, skipped) in taken.items():
        if len(skipped) < LEAST:
            continue
        others = [[skipped_by_all - len(skipped), kept_by_all - len(kept)], [len(skipped), len(kept)]]
        if fisher_exact(others, alternative="less").pvalue < RARE:
            often.append(annotator)
        if kept and mannwhitneyu(skipped, kept).pvalue < RARE:
            picky.append(annotator)
    return [
        Alert(kind, f"{len(who)} {'person' if len(who) == 1 else 'people'} {seen}", remedy, tuple(who))
        for kind, who, seen, remedy in (
            (
                "many skips",
                often,
                "skip programs much more often than others do",
                "ask why, or lower queue.skips_a_day",
            ),
            (
                "cherry-picking",
                picky,
                "skip programs of other lengths than those they review",
                "lower queue.skips_a_day",
            ),
        )
        if who
    ]
