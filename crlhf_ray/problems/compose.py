"""Problems composed of typed steps and told in words: ``compose:SEED:COUNT``.

Each is a chain of one to three `steps.STEPS`, every one of which matters: a chain that gives the same answers without
one of its steps, or nearly always the same answer, is not used. Split by composition (a chain of steps is on one side
for every seed and count) and by phrasing (no words for a step, no frame and no name is on both sides).

Tests are chosen among many inputs until they catch every small mistake in either reference, and every chain with a step
left out or two exchanged, that any of these inputs can catch. What runs for that is this file's own code alone.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import random
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from crlhf_ray.errors import DataError
from crlhf_ray.problems.checkers import CallChecker, Case
from crlhf_ray.problems.problem import Problem
from crlhf_ray.problems.steps import STEPS, TYPES, Step

HELD_OUT = 5  # every fifth problem, and about every fifth composition
TESTS = 6  # at least
MOST = 20_000
INPUTS = 48
LENGTHS = (1, 1, 1, 1, 2, 2, 2, 2, 3, 3)

FRAMES = {
    "train": (
        ("{}.", "{}, then {}.", "{}, then {}, and finally {}."),
        ("{}.", "First {}. Then {}.", "First {}. Then {}. Finally {}."),
        ("Do this: {}.", "Do this: {}; {}.", "Do this: {}; {}; {}."),
    ),
    "heldout": (
        ("The task is to {}.", "The task is to {}, and after that to {}.", "The task is to {}, to {}, and to {}."),
        ("{}, please.", "{}. Next, {}.", "{}. Next, {}. At the end, {}."),
    ),
}
CLOSINGS = {"train": ("Return the result.", "Return what this gives."), "heldout": ("Hand back the outcome.",)}
NAMES = {
    "train": (("process", "compute", "derive", "prepare"), ("values", "data", "items", "answer", "output")),
    "heldout": (("handle", "evaluate", "produce"), ("entries", "content", "solution", "material")),
}
ARGUMENTS = {
    "train": {"ints": "numbers", "words": "words", "text": "line", "int": "n", "table": "counts", "k": "limit"},
    "heldout": {"ints": "series", "words": "terms", "text": "phrase", "int": "value", "table": "tally", "k": "bound"},
}
WORDS = ("a", "as", "ox", "Ivy", "tea", "pear", "Oslo", "plum", "eagle", "lemon", "banana", "orchid")


def composed(seed: int, count: int) -> list[Problem]:
    """``count`` problems, the same for the same seed; those of a smaller count are the first ones of a larger.

    Every fifth is held out. Raises DataError for a count outside 1 to 20,000.
    """
    if not 1 <= count <= MOST:
        raise DataError(f"count is {count}: use 1 to {MOST}", file=f"compose:{seed}:{count}")
    return [_problem(seed, number) for number in range(count)]


def from_source(source: str) -> list[Problem]:
    """The problems of ``compose:SEED:COUNT``. Raises DataError where these are not two whole numbers."""
    parts = source.split(":")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts[1:]):
        raise DataError("is not compose:SEED:COUNT with two whole numbers, such as compose:1:500", file=source)
    return composed(int(parts[1]), int(parts[2]))


def split_of(chain: tuple[str, ...]) -> str:
    """The side of a composition, by the names of its steps."""
    return "train" if hashlib.blake2b(" ".join(chain).encode()).digest()[0] % HELD_OUT else "heldout"


@lru_cache(maxsize=MOST)
def _problem(seed: int, number: int) -> Problem:
    rng = random.Random(f"compose {seed} {number}")  # noqa: S311 not a secret
    split = "heldout" if number % HELD_OUT == HELD_OUT - 1 else "train"
    while True:
        chain = _chain(rng)
        if split_of(tuple(step.name for step in chain)) != split:
            continue
        built = _Built(chain, split, rng)
        cases = built.cases(rng)
        if cases is not None:
            return built.problem(f"compose/{seed}/{number}", *cases, rng)


def _chain(rng: random.Random) -> list[Step]:
    wanted = rng.choice(LENGTHS)
    chain = [rng.choice([step for step in STEPS if wanted == 1 or not step.ends])]
    while len(chain) < wanted:
        fitting = [s for s in STEPS if s.takes == chain[-1].gives and (len(chain) == wanted - 1 or not s.ends)]
        chain.append(rng.choice([step for step in fitting if step not in chain] or fitting))
    return chain


class _Built:
    """One chain with its parameters and names, as code and in words."""

    def __init__(self, chain: list[Step], split: str, rng: random.Random):
        self.chain, self.split = chain, split
        names = ARGUMENTS[split]
        self.argument = names[chain[0].takes]
        verbs, nouns = NAMES[split]
        self.entry = f"{rng.choice(verbs)}_{rng.choice(nouns)}"
        self.k: list[int | str] = [rng.choice(step.k) if step.k else "" for step in chain]
        given = [n for n, step in enumerate(chain) if step.k]
        self.given = rng.choice(given) if given and rng.random() < 0.3 else None
        if self.given is not None:
            self.k[self.given] = names["k"]
        arguments = f"{self.argument}: {TYPES[chain[0].takes][0]}" + (
            f", {names['k']}: int" if self.given is not None else ""
        )
        self.head = f"def {self.entry}({arguments}) -> {TYPES[chain[-1].gives][0]}:"

    def loop(self, order: list[int] | None = None) -> str:
        """The body in statements, of the steps in this order or of all."""
        lines, at = [], self.argument
        for place, n in enumerate(range(len(self.chain)) if order is None else order):
            step, name = self.chain[n], ("result", "kept", "found")[place]
            lines += step.loop.format(x=at, y=name, k=self.k[n]).split("\n")
            at = name
            if step.ends:
                return "".join(f"\n    {line}" for line in lines)
        return "".join(f"\n    {line}" for line in [*lines, f"return {at}"])

    def short(self) -> str:
        """The body in expressions."""
        lines, at = [], self.argument
        for n, step in enumerate(self.chain[:-1]):
            lines.append(f"part{n + 1} = " + step.short.format(x=at, k=self.k[n]))
            at = f"part{n + 1}"
        return "".join(
            f"\n    {line}" for line in [*lines, "return " + self.chain[-1].short.format(x=at, k=self.k[-1])]
        )

    def cases(self, rng: random.Random) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]] | None:
        """Tests and examples, each a pair of arguments and answer; None for a chain that is not worth asking."""
        inputs = self._inputs(rng)
        right = _answers(self.head + self.loop(), self.entry, inputs)
        assert right == _answers(self.head + self.short(), self.entry, inputs), self.chain
        if max(map(right.count, right)) > 0.6 * len(right) or any("raised" in str(r[0]) for r in right):
            return None
        places = range(len(self.chain))
        for left_out in places if len(self.chain) > 1 else ():
            order = [n for n in places if n != left_out]
            if self._fits(order) and _answers(self.head + self.loop(order), self.entry, inputs) == right:
                return None
        wrong = [self.head + self.loop(o) for o in self._exchanged() if self._fits(o)]
        wrong += [m for body in (self.loop(), self.short()) for m in mutants(self.head + body)]
        catching = []
        for text in wrong:
            found = _answers(text, self.entry, inputs)
            catching.append({n for n, (a, b) in enumerate(zip(found, right, strict=True)) if a != b})
        chosen = _cover([0, 1], [caught for caught in catching if caught], TESTS, len(inputs))
        rest = [n for n in range(2, len(inputs)) if n not in chosen]
        shown = sorted(rest, key=lambda n: (right.count(right[n]), abs(len(repr(inputs[n])) - 24)))[:2]
        return [(inputs[n], right[n][1]) for n in chosen], [(inputs[n], right[n][1]) for n in shown]

    def _fits(self, order: list[int]) -> bool:
        steps = [self.chain[n] for n in order]
        types = [self.chain[0].takes, *(step.gives for step in steps)]
        whole = all(step.takes == before for step, before in zip(steps, types, strict=False))
        return whole and types[-1] == self.chain[-1].gives and not any(step.ends for step in steps[:-1])

    def _exchanged(self) -> Iterator[list[int]]:
        for n in range(len(self.chain) - 1):
            order = list(range(len(self.chain)))
            order[n], order[n + 1] = order[n + 1], order[n]
            yield order

    def _inputs(self, rng: random.Random) -> list[tuple[Any, ...]]:
        """The first two are edge cases: nothing, and one of something."""
        kind = self.chain[0].takes
        made = [_value(kind, size, rng) for size in (0, 1, *(rng.randint(1, 9) for _ in range(INPUTS)))]
        choices = self.chain[self.given].k if self.given is not None else ()
        inputs = [(value, rng.choice(choices)) if choices else (value,) for value in made]
        return [one for n, one in enumerate(inputs) if one not in inputs[:n]]

    def problem(
        self, name: str, tests: list[tuple[Any, Any]], examples: list[tuple[Any, Any]], rng: random.Random
    ) -> Problem:
        doc = [*textwrap.wrap(self._told(rng), 88), ""]
        for arguments, answer in examples:
            doc += [f">>> {self.entry}({', '.join(map(repr, arguments))})", repr(answer)]
        prompt = self.head + '\n    """' + "\n    ".join(doc).replace("\n    \n", "\n\n") + '\n    """'
        return Problem(
            name,
            prompt,
            self.entry,
            CallChecker(tuple(Case(arguments, answer) for arguments, answer in tests)),
            (self.loop(), self.short()),
            split=self.split,  # type: ignore[arg-type]
            difficulty=("easy", "medium", "hard")[len(self.chain) - 1],
            family=" > ".join(f"{step.kind} {step.name}" for step in self.chain),
        )

    def _told(self, rng: random.Random) -> str:
        clauses = []
        for n, step in enumerate(self.chain):
            phrases = step.phrases[-2:] if self.split == "heldout" else step.phrases[:-2]
            it = TYPES[step.takes][1].format(name=self.argument) if n == 0 else TYPES[step.takes][2]
            clauses.append(rng.choice(phrases).format(it=it, k=self.k[n]))
        frame = rng.choice(FRAMES[self.split])[len(clauses) - 1]
        text = frame.format(*clauses)
        return f"{text[0].upper()}{text[1:]} {rng.choice(CLOSINGS[self.split])}"


def _value(kind: str, size: int, rng: random.Random) -> Any:
    """size: of the value; 0 for the empty one, or 0."""
    if kind == "int":
        return rng.choice((0, size, rng.randint(-20, 20), rng.randint(10, 400))) if size else 0
    if kind == "ints":
        return [rng.randint(-4, 12) for _ in range(size)]
    words = [rng.choice(WORDS) for _ in range(size)]
    if kind == "table":
        return {word: rng.randint(1, 5) for word in words}
    return " ".join(words) if kind == "text" else words


def _answers(source: str, entry: str, inputs: list[tuple[Any, ...]]) -> list[tuple[str, Any]]:
    """What our own code answers, as (type and text, value): True is not 1 here."""
    space: dict[str, Any] = {}
    exec(compile(source, "<composed>", "exec"), space)  # noqa: S102 made of our own steps alone
    answers: list[tuple[str, Any]] = []
    for arguments in inputs:
        try:
            answer = space[entry](*copy.deepcopy(arguments))
            answers.append((repr(answer), answer))
        except Exception as error:
            answers.append((f"raised {type(error).__name__}", None))
    return answers


def _cover(chosen: list[int], catching: list[set[int]], least: int, count: int) -> list[int]:
    """Inputs that catch all that can be caught, the most at a time, and at least so many."""
    left = [caught for caught in catching if not caught & set(chosen)]
    while left:
        best = max(range(count), key=lambda n: sum(n in caught for caught in left))
        chosen = [*chosen, best]
        left = [caught for caught in left if best not in caught]
    return chosen + [n for n in range(count) if n not in chosen][: max(0, least - len(chosen))]


_COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type, type] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Mod: ast.FloorDiv}
_CALLS = {"max": "min", "min": "max", "any": "all", "all": "any", "upper": "lower", "lower": "upper"}


def mutants(source: str) -> list[str]:
    """All programs with one small mistake: an operator, a number, a name of a call, a negation or a condition lost.

    Nothing inside a ``while`` changes, so that all of them end.
    """
    count = len(list(_edits(ast.parse(source))))
    found = []
    for n in range(count):
        tree = ast.parse(source)
        list(_edits(tree))[n]()
        found.append(ast.unparse(ast.fix_missing_locations(tree)))
    return [text for text in dict.fromkeys(found) if text != ast.unparse(ast.parse(source))]


def _edits(tree: ast.AST) -> Iterator[Callable[[], None]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.While | ast.arguments):
            continue
        match node:
            case ast.Compare(ops=[op]):
                yield from (_set(node, "ops", [other()]) for other in _COMPARISONS.get(type(op), ()))
            case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _ARITHMETIC:
                yield _set(node, "op", _ARITHMETIC[type(op)]())
            case ast.Constant(value=bool(value)):
                yield _set(node, "value", not value)
            case ast.Constant(value=int(value)):
                yield from (_set(node, "value", value + by) for by in (1, -1))
            case ast.Name(id=name) if name in _CALLS:
                yield _set(node, "id", _CALLS[name])
            case ast.Attribute(attr=name) if name in _CALLS:
                yield _set(node, "attr", _CALLS[name])
            case ast.UnaryOp(op=ast.Not()):
                yield _set(node, "op", ast.UAdd())
            case ast.If(orelse=[]) | ast.IfExp():
                yield _set(node, "test", ast.Constant(value=True))
            case ast.comprehension(ifs=[_]):
                yield _set(node, "ifs", [])
        yield from _edits(node)


def _set(node: ast.AST, field: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(node, field, value)
