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


class Together(Generic[T]):
    """Runs requests in a thread of its own, as many at a time as have come.

    run: does all that it is given, or nothing and raises. When it raises for several, each is run alone, so that one
    that cannot be done harms no other.
    """

    def __init__(self, run: Callable[[Sequence[T]], None]):
        self._run = run
        self._waiting: queue.SimpleQueue[tuple[T, Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __call__(self, request: T) -> Future[None]:
        """Returns at once; the future is done when the request is on the disk, or has the error."""
        future: Future[None] = Future()
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

    def _attempt(self, batch: Sequence[tuple[T, Future[None]]]) -> None:
        try:
            if batch:
                self._run([request for request, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:
                for one in batch:
                    self._attempt([one])
            return
        for _, future in batch:
            future.set_result(None)
