"""Static checks as annotators: Python's compiler, groups of ruff's rules, mypy, any linter by command."""

from __future__ import annotations

import time
from collections.abc import Sequence

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.annotators.base import Annotator, Review
from crlhf_ray.feedback.annotators.settings import ChecksSettings
from crlhf_ray.feedback.annotators.tools import Findings, find, program

#: Programs whose findings are remembered, for groups of rules that look at the same ones.
_REMEMBERED = 4096


class Tool:
    """A tool that several annotators share: one run over a batch serves all groups of rules."""

    def __init__(self, settings: ChecksSettings):
        self.settings = settings
        self._known: dict[tuple[str, str], tuple[Findings | None, float]] = {}
        if settings.tool != "python":
            program(settings.command[0] if settings.tool == "command" else settings.tool)

    def look(self, items: Sequence[Item]) -> list[tuple[Findings | None, float]]:
        """``(findings, seconds)`` of each program; None where the tool could not read it."""
        new = list({(i.prompt, "\n".join(i.lines)): i for i in items}.items())
        new = [(key, item) for key, item in new if key not in self._known]
        if len(self._known) + len(new) > _REMEMBERED:
            self._known.clear()
            new = list({(i.prompt, "\n".join(i.lines)): i for i in items}.items())
        if new:
            begun = time.monotonic()
            found = find([item for _, item in new], self.settings)
            each = (time.monotonic() - begun) / len(new)
            self._known.update((key, (some, each)) for (key, _), some in zip(new, found, strict=True))
        return [self._known[item.prompt, "\n".join(item.lines)] for item in items]


class Checks(Annotator):
    """One group of a tool's rules. rules: prefix of their codes; "" for all."""

    source = "check"

    def __init__(self, tool: Tool, rules: str, others: Sequence[str] = ()):
        self.tool, self.rules = tool, rules
        self._longer = tuple(other for other in others if len(other) > len(rules) and other.startswith(rules))
        name = tool.settings.command[0].rsplit("/", 1)[-1] if tool.settings.tool == "command" else tool.settings.tool
        self.annotator_id = f"{name}:{rules}" if rules else name
        self.family = name

    def review(self, items: Sequence[Item]) -> list[Review]:
        return [
            Review(seconds=seconds, note=f"{self.family} could not read it")
            if found is None
            else Review(self._labels(item, found), seconds=seconds)
            for item, (found, seconds) in zip(items, self.tool.look(items), strict=True)
        ]

    def _labels(self, item: Item, found: Findings) -> dict[int, int]:
        wrong = {line for line, code in found if code.startswith(self.rules) and not code.startswith(self._longer)}
        labels = {line: -1 if line in wrong else 1 for line in item.to_review if line < len(item.lines)}
        if self.tool.settings.tool == "python" and wrong:  # what follows, the compiler did not read
            labels = {line: label for line, label in labels.items() if line <= min(wrong)}
        return labels


def checks(settings: ChecksSettings) -> list[Annotator]:
    """The annotators of one entry of the settings. Raises ConfigError where the tool is not installed."""
    tool = Tool(settings)
    if settings.tool == "ruff":
        return [Checks(tool, rules, settings.rules) for rules in settings.rules]
    return [Checks(tool, "")]
