"""Whatever the program's side sends, the verifier comes to a verdict that is not `passed`, and soon."""

import contextlib
import json
import socket
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crlhf_ray.problems.checkers import AssertChecker, CallChecker, Case
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.check import Check
from crlhf_ray.sandbox.guest import kinds, values, wire
from crlhf_ray.sandbox.guest.heap import Heap
from crlhf_ray.sandbox.jail import Ending
from crlhf_ray.sandbox.limits import Limits

TESTS = (
    "assert f([3, 1]) == [1, 3, 'secret']",
    "assert abs(f(2) - 0.123456789) < 1e-9",
    "assert [*f(3)] == ['a', ('b', 7)]",
)
PROBLEMS = [
    Problem("asserts", '"""f"""', "f", AssertChecker(TESTS), ()),
    Problem("calls", '"""f"""', "f", CallChecker(tuple(Case((i,), f"secret {i}") for i in range(3))), ()),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
TAGS = st.sampled_from(
    [
        *values.BUILDERS,
        "ref",
        "object",
        "class",
        "theirs",
        "type",
        "enum",
        "named tuple",
        "error",
        "instance",
        "nonsense",
    ]
)
KINDS = st.sampled_from([*kinds.KINDS, *kinds.ARRAY_KINDS, "DataFrame", "Series", "instance", "nonsense"])
TAGGED = st.recursive(
    JSON,
    lambda inner: st.builds(lambda tag, content: {"t": tag, "v": content}, TAGS, inner | st.lists(inner, max_size=3)),
    max_leaves=5,
)
FUNCTION = {"t": "object", "v": [0, {"t": "class", "v": [1, "function", "builtins", ["call"], []]}]}
BOUND = [{"t": "tuple", "v": [{"t": "tuple", "v": ["f", FUNCTION]}]}, []]
OBJECTS = st.lists(
    st.builds(lambda n, kind, parts: [n, kind, parts], st.integers(-1, 5), KINDS, st.lists(TAGGED, max_size=3)),
    max_size=2,
)
PACKED = st.builds(lambda body, objects: [body, objects], TAGGED, OBJECTS)
ENDS = st.sampled_from([[[None, None], None], [["x", 1], [3, [1], None]], []])
ANSWERS = st.one_of(
    JSON,
    TAGGED,
    st.builds(lambda n, value, end: [n, "ok", value, *end], st.integers(0, 6), PACKED, ENDS),
    st.builds(
        lambda n, value, kind, text: [n, "raised", value, [kind, kind, text], None, None],
        st.integers(0, 6),
        PACKED,
        st.sampled_from(
            ["StopIteration", "AssertionError", "SystemExit", "print", "ExceptionGroup", "UnicodeDecodeError"]
        ),
        st.text(max_size=20),
    ),
    st.builds(lambda n, value: ["back", n, value], st.integers(-1, 3), PACKED),
    st.builds(
        lambda n, results: [n, "ok", results, [None, None], None], st.integers(0, 6), st.lists(PACKED, max_size=2)
    ),
)


def framed(answer: object) -> bytes:
    body = json.dumps(answer).encode()
    return struct.pack(">I", len(body)) + body


MESSAGES = st.lists(st.one_of(ANSWERS.map(framed), st.binary(max_size=40)), max_size=4).map(b"".join)
#: The first answer is well formed more often than chance would have it, so that the calls are reached.
STREAMS = st.one_of(MESSAGES, MESSAGES.map(lambda rest: framed([1, "ok", BOUND, [None, None], None]) + rest))


class PlaybackJail:
    """Stands where the jail is and plays a stream of bytes as the program's answers."""

    isolation, libraries, memory_by = "jailed", ("numpy",), "watch"

    def __init__(self, stream: bytes):
        self.stream = stream

    def spawn(self, limits, deadline, **_):
        ours, theirs = socket.socketpair()

        theirs.sendall(self.stream)
        theirs.shutdown(socket.SHUT_WR)
        self.kept = theirs  # open, so that what the verifier sends goes somewhere
        return wire.Channel(ours, deadline)

    def usage(self, memory_mb: float) -> tuple[float, float]:
        return 0.0, 0.0

    def wait(self, seconds: float) -> bool:
        return True

    def finish(self) -> Ending:
        self.kept.close()
        return Ending(signal=0, code=0, cpu=0.0, memory_kb=0)

    def output(self, limit: int) -> str:
        return ""

    def ran_out_of_memory(self) -> bool:
        return False


@given(stream=STREAMS, problem=st.sampled_from(PROBLEMS))
@settings(max_examples=300)
def test_malformed_messages_end_in_a_verdict_and_never_pass(stream, problem):
    verdict = Check(PlaybackJail(stream), Limits(wall_seconds=2)).verdict(problem, "")
    assert verdict.status in ("wrong", "error", "timeout", "killed", "out_of_memory")


def heap(first: int = 0) -> Heap:
    def inside(tag, content):
        raise wire.ProtocolError(tag)

    return Heap(first, lambda value: None, inside, {})


@given(data=PACKED)
@settings(max_examples=300)
def test_decoding_gives_a_value_or_a_protocol_error(data):
    with contextlib.suppress(wire.ProtocolError):
        heap().unpack(data)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 200), 1 << 200)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.sampled_from([int, str, range(3), range(9, -5, -2), frozenset({1, "a"})]),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=10,
)


@given(value=VALUES)
@settings(max_examples=200)
def test_plain_values_survive_the_way_there_and_back(value):
    found = heap(1).unpack(json.loads(json.dumps(heap().pack(value))))
    assert found == value
    assert type(found) is type(value)


def test_one_object_stays_one_object_and_changes_on_both_sides():
    ours, theirs = heap(), heap(1)
    row = [1]
    grid = {"rows": [row, row]}
    found = theirs.unpack(json.loads(json.dumps(ours.pack((grid, row)))))
    there, row_there = found
    assert there["rows"][0] is there["rows"][1] is row_there
    row_there.append(2)
    assert ours.unpack(json.loads(json.dumps(theirs.pack(there)))) is grid
    assert grid == {"rows": [[1, 2], [1, 2]]}
    assert theirs.pack(there)[1] == []  # nothing has changed since


def test_lists_nest_as_deep_as_they_like():
    deep = []
    for _ in range(5000):
        deep = [deep]
    found = heap(1).unpack(json.loads(json.dumps(heap().pack(deep))))
    for _ in range(5000):
        (found,) = found
    assert found == []


def test_an_unsent_message_ends_at_the_deadline():
    ours, theirs = socket.socketpair()
    with theirs, ours, pytest.raises(TimeoutError):
        wire.Channel(ours, time.monotonic() + 0.05).receive()


def test_an_announced_giant_is_refused_before_it_is_read():
    ours, theirs = socket.socketpair()
    with theirs, ours:
        theirs.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(wire.ProtocolError, match="4294967295 bytes"):
            wire.Channel(ours, time.monotonic() + 5).receive()
