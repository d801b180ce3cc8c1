"""How much of the starter set can be passed without any model, by copying the docstring's expression into a return.

The starter problems are small enough for a model of 135M parameters, and most docstrings say the rule as an expression:
"Return the last digit, number % 10." So passing them is largely a matter of reading the docstring and writing nothing
else. This prints how far that alone goes, and splits what a trained run gained into problems that the rule passes and
problems that it does not.

    python benchmarks/copy_rule.py                                  the rule alone
    python benchmarks/copy_rule.py --source compose:1:500           another source, and every way to copy from it
    python benchmarks/copy_rule.py runs/learning/two_coin-0         and what that run gained, by kind of problem
"""

from __future__ import annotations

import argparse
import ast
import re
from contextlib import suppress
from itertools import pairwise, takewhile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from crlhf_ray.problems.load import load_problems
from crlhf_ray.problems.problem import Problem
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


def copies(prompt: str) -> list[str]:
    """All that a program can return by copying alone: what `copied` finds, every run of the docstring's words that is
    an expression and names an argument, and the answers of the worked examples."""
    function = ast.parse(prompt).body[-1]
    assert isinstance(function, ast.FunctionDef)
    arguments = {argument.arg for argument in function.args.args}
    lines = (ast.get_docstring(function) or "").split("\n")
    found = [text for text in [copied(prompt)] if text is not None]
    found += [answer for line, answer in pairwise(lines) if line.startswith(">>>")]
    words = " ".join(takewhile(lambda line: not line.startswith(">>>"), lines)).split()
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            text = " ".join(words[start:end]).rstrip(".,;:")
            with suppress(SyntaxError):
                tree = ast.parse(text, mode="eval")
                if any(isinstance(node, ast.Name) and node.id in arguments for node in ast.walk(tree)):
                    found.append(text)
    return list(dict.fromkeys(found))


def copied_rate(problems: list[Problem], sandbox: Sandbox) -> dict[str, tuple[int, int]]:
    """By split: problems that some copy passes, of how many."""
    jobs = [(problem, f"\n    return {text}\n") for problem in problems for text in copies(problem.prompt)]
    verdicts = sandbox.check(jobs)
    passed = {problem.problem_id for (problem, _), verdict in zip(jobs, verdicts, strict=True) if verdict.passed}
    sides = {split: [p.problem_id in passed for p in problems if p.split == split] for split in ("train", "heldout")}
    return {split: (sum(side), len(side)) for split, side in sides.items() if side}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, as of benchmarks/learning.py")
    parser.add_argument("--source", help="a source of problems; every way to copy is tried on it")
    options = parser.parse_args()
    if options.source:
        with Sandbox() as sandbox:
            for split, (right, count) in copied_rate(load_problems(options.source), sandbox).items():
                print(f"{split}: some copy from the prompt passes {right} of {count}, {right / count:.1%}")
        return
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
