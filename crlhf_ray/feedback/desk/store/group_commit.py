"""Requests that come at the same time share one transaction: one wait for the disk instead of one each."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

#: Between two transactions, so that they are fewer and larger under load. Who comes alone never waits for it.
PAUSE_SECONDS = 0.005
MOST = 200

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Runs requests in a thread of its own, as many at a time as have come.

    run: does all that it is given and returns an answer to each, or does nothing and raises. When it raises for
    several, each is run alone, so that one that cannot be done harms no other.
    """

    def __init__(self, run: Callable[[Sequence[T]], Sequence[R]]):
        self._run = run
        self._waiting: queue.SimpleQueue[tuple[T, Future[R]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __call__(self, request: T) -> Future[R]:
        """Returns at once; the future has the answer when the request is on the disk, or the error."""
        future: Future[R] = Future()
        self._waiting.put((request, future))
        return future

    def close(self) -> None:
        """Run what waits, and end. Harmless when called twice."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        last = False
        while not last:
            batch = [self._waiting.get()]
            while len(batch) < MOST and not self._waiting.empty():
                batch.append(self._waiting.get())
            last = None in batch
            # Whoever gave up waiting before it was begun was told nothing, so nothing need be done.
            self._attempt([one for one in batch if one is not None and one[1].set_running_or_notify_cancel()])
            time.sleep(PAUSE_SECONDS)

    def _attempt(self, batch: Sequence[tuple[T, Future[R]]]) -> None:
        try:
            answers = self._run([request for request, _ in batch]) if batch else []
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:
                for one in batch:
                    self._attempt([one])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)
