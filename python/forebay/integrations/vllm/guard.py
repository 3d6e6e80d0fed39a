"""Keeps flaws of an adapter's own from the engine: a hook that raises is answered as if nothing were stored, and the adapter is told."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from vllm.v1.kv_offload.tiering.base import JobResult

import forebay

_T = TypeVar("_T")
#: Between two looks at calls that are under way.
LOOK_S = 0.05


class Guarded(Protocol):
    """Whose hooks these are."""

    def _failed(self, hook: str) -> None:
        """Called while the exception is handled, and may raise it again."""


def guarded(otherwise: Callable[..., Any]) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """otherwise: makes the answer where the method raises, of what the method was given."""

    def around(method: Callable[..., _T]) -> Callable[..., _T]:
        @functools.wraps(method)
        def call(self: Guarded, *args: Any) -> Any:
            try:
                return method(self, *args)
            except Exception:
                self._failed(method.__name__)
                return otherwise(self, *args)

        return call

    return around


def nothing(*args: Any) -> None:
    """Answers nothing."""
    del args


class Jobs:
    """vLLM's transfers that are not reported as over. Each must be, whatever happens: until then their places in the CPU tier are taken."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self._queue: forebay.CallQueue | None = None
        self._until = 0.0

    def reported(self, results: Iterable[JobResult]) -> None:
        """These are over."""
        for result in results:
            self.open.discard(result.job_id)

    def give_up(self, queue: forebay.CallQueue | None, within_s: float) -> None:
        """None of them will end by itself any more. Calls of the queue may still touch the CPU tier, each until its deadline, which is over by then."""
        self._queue, self._until = queue, time.monotonic() + within_s

    def failed(self, *, wait: bool = False) -> list[JobResult]:
        """All of them, as failed, as soon as nothing touches the CPU tier any more; none before that."""
        while self._queue is not None:
            if self._is_quiet(self._queue) or time.monotonic() >= self._until:
                self._queue = None
            elif wait:
                time.sleep(LOOK_S)
            else:
                return []
        results = [JobResult(job_id, success=False) for job_id in sorted(self.open)]
        self.open.clear()
        return results

    @staticmethod
    def _is_quiet(queue: forebay.CallQueue) -> bool:
        try:
            queue.drain()
            return not queue.pending
        except Exception:
            return False


def submits(method: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """A hook that takes a job, which is reported whatever happens."""

    @functools.wraps(method)
    def call(self: Any, job_metadata: Any) -> None:
        self._jobs.open.add(job_metadata.job_id)
        try:
            method(self, job_metadata)
        except Exception:
            self._failed(method.__name__)

    return call
