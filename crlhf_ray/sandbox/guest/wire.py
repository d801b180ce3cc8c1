"""The messages between verifier and program: length-prefixed JSON with plain tagged data, and nothing that executes.

Both sides share the files of this folder. None, bool, int, float and str travel as JSON has them, other values that
never change as ``{"t": tag, "v": content}`` (`values`). What can change is told apart by a number, so that one object
stays one object on both sides and what happens to it on one is seen on the other (`heap`). Objects of unknown types
stay where they are and travel as handles.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

MAX_MESSAGE = 16 << 20  # bytes: more than any honest answer, little enough to parse in a second or two
MAX_DEPTH = 100  # of tuples and other values within each other; lists, dictionaries and objects nest as they like
MAX_BITS = 1 << 22  # of an integer: an answer of HumanEval+ has 3.3 million; longer ones take seconds an operation
MAX_FRACTION_BITS = 1 << 14
MARK = "_of_the_program"  # on exceptions that a test may raise, and the program made
MAX_SHARED = 2048  # objects whose changes are followed; of the oldest beyond that, only the value was taken over
#: Special methods of a program's objects that tests may use, as the functions of `operator` are called.
COMPARISONS = ("lt", "le", "eq", "ne", "gt", "ge")
ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "xor",
    "or",
)
UNARY = ("neg", "pos", "abs", "invert", "int", "float", "complex", "index", "round", "trunc", "floor", "ceil")
LOOKS = ("len", "getitem", "setitem", "delitem", "iter", "next", "reversed", "contains", "enter", "exit", "bool")
AWAITED = ("await", "aiter", "anext", "aenter", "aexit")

_HEADER = struct.Struct(">I")


class ProtocolError(Exception):
    """The other side sent something that is no message."""


class Unsendable(ValueError):
    """A value that no message can hold: too deep, too long, too large."""


class Channel:
    """Whole messages over a stream socket, each wait bounded by ``deadline`` (monotonic seconds; None waits)."""

    def __init__(self, sock: socket.socket, deadline: float | None = None):
        self.sock, self.deadline = sock, deadline
        self.size = 0  # bytes of the last message received
        self._received = b""

    def _arm(self) -> None:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)

    def send(self, message: Any) -> None:
        """Raises Unsendable where the message is too long, OSError where nobody listens, TimeoutError."""
        body = to_json(message).encode("ascii")
        if len(body) > MAX_MESSAGE:
            raise Unsendable(f"a message of {len(body)} bytes, more than {MAX_MESSAGE}")
        self._arm()
        self.sock.sendall(_HEADER.pack(len(body)) + body)

    def receive(self) -> Any:
        """Raises EOFError, TimeoutError, or ProtocolError for anything that is no message."""
        (size,) = _HEADER.unpack(self._exactly(_HEADER.size))
        self.size = size
        if size > MAX_MESSAGE:
            raise ProtocolError(f"announced a message of {size} bytes, more than {MAX_MESSAGE}")
        try:
            return from_json(self._exactly(size).decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"not JSON: {error}"[:200]) from None

    def _exactly(self, size: int) -> bytes:
        parts, have = [self._received], len(self._received)
        while have < size:
            self._arm()
            try:
                part = self.sock.recv(max(65536, min(size - have, 1 << 20)))
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        self._received = data[size:]
        return data[:size]


to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
from_json = json.JSONDecoder().decode
