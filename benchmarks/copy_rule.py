"""How much of the starter set can be passed without any model, by copying the docstring's expression into a return.

The starter problems are small enough for a model of 135M parameters, and most docstrings say the rule as an expression:
"Return the last digit, number % 10." So passing them is largely a matter of reading the docstring and writing nothing
else. This prints how far that alone goes, and splits what a trained run gained into problems that the rule passes and
problems that it does not.

    python benchmarks/copy_rule.py                                  the rule alone
    python benchmarks/copy_rule.py runs/learning/two_coin-0         and what that run gained, by kind of problem
"""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from crlhf_ray.problems.load import load_problems
from crlhf_ray.report.run_files import read_run
from crlhf_ray.sandbox.sandbox import Sandbox

#: Where an expression may begin in a docstring such as "Return the area, width * height."
STARTS = re.compile(r", | if |Return (?:the (?:\w+ )?)?(?:a )?")


def copied(prompt: str) -> str | None:
    """The first expression of the docstring that names an argument, from where it begins to the docstring's end."""
    function = ast.parse(prompt).body[-1]
    assert isinstance(function, ast.FunctionDef)
    arguments = {argument.arg for argument in function.args.args}
    text = (ast.get_docstring(function) or "").strip().rstrip(".").replace("\n", " ")
    for start in sorted(found.end() for found in STARTS.finditer(text)):
        try:
            tree = ast.parse(text[start:], mode="eval").body
        except SyntaxError:
            continue
        bare_tuple = isinstance(tree, ast.Tuple) and not text[start:].startswith("(")
        if not bare_tuple and any(isinstance(n, ast.Name) and n.id in arguments for n in ast.walk(tree)):
            return text[start:]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, as of benchmarks/learning.py")
    options = parser.parse_args()
    problems = load_problems("starter")
    answers = [(p, f"\n    return {text}\n") for p in problems if (text := copied(p.prompt)) is not None]
    with Sandbox() as sandbox:
        verdicts = sandbox.check(answers)
    passed = {p.problem_id for (p, _), verdict in zip(answers, verdicts, strict=True) if verdict.passed}
    console = Console(highlight=False)
    for split in ("train", "heldout"):
        ids = [p.problem_id for p in problems if p.split == split]
        right = sum(name in passed for name in ids)
        console.print(
            f"{split}: copying the docstring's expression passes {right} of {len(ids)}, {right / len(ids):.1%}"
        )
    if not options.runs:
        return
    table = Table(title="Held-out pass@1, before and after training", title_justify="left")
    for title in ("run", "the rule", "problems", "before", "after", "gain, points"):
        table.add_column(title)
    for folder in options.runs:
        before, after = (read_run(folder).heldout()[at]["per_problem"] for at in (0, -1))
        for kind, wanted in (("passes", True), ("fails", False)):
            ids = [name for name in before if (name in passed) == wanted]
            first, last = (float(np.mean([rates[name] for name in ids])) for rates in (before, after))
            table.add_row(
                folder.name, kind, str(len(ids)), f"{first:.1%}", f"{last:.1%}", f"{100 * (last - first):+.1f}"
            )
    console.print(table)


if __name__ == "__main__":
    main()
