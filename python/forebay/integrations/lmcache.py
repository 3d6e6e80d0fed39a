"""LMCache: a `native_plugin` behind its server or its engine, for chunks that LMCache's own memory has let go.

    --l2-adapter '{"type": "native_plugin", "module_path": "forebay.integrations.lmcache", "class_name": "LmcacheClient",
                   "adapter_params": {"address": "unix:/run/user/1000/forebay.sock", "weights": "path/to/model"}}'

LMCache names chunks by model, rank, group, hash and salt; the name is the engine's hash here. It does not know the weights, so they are named in
`adapter_params`: a folder, a file, or a digest. LMCache polls one descriptor and drains; it is never held up, and what fails is a miss.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import select
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import forebay
from forebay import Fingerprint
from forebay.integrations import _model, _versions
from forebay.integrations._common import Link, Report

#: Calls that were not drained yet; one more is answered as a failure.
CALLS_MAX = 1024


def _logger() -> logging.Logger:
    """LMCache gives each logger a handler of its own, and the root none: what is said elsewhere below a warning is never seen."""
    try:
        from lmcache.logging import init_logger
    except ImportError:
        return logging.getLogger("forebay")
    return init_logger("forebay.lmcache")


_LOGGER = _logger()

Completion = tuple[int, bool, str, list[bool] | None]


class LmcacheClient:
    """What LMCache calls a native client.

    Args:
        address: of the node; `FOREBAY_CONNECT` or the default socket if left out.
        token_file: with the credential for TCP; `FOREBAY_TOKEN_FILE` if left out.
        weights: what the KV belongs to: a folder or file of weights, or `weights_digest` instead.
        weights_digest: a text that changes whenever the weights do, where they are not files on this machine.
        model: a name for the fingerprint; the last part of `weights` if left out.
        namespace, quota, ttl_s: as for the other adapters.
        deadline_ms: how long a call may take.
        l1_keeps: LMCache's own memory keeps what is stored, so the node's DRAM does not; false for `--l2-store-policy skip_l1`.
        strict: raise at the start when the node is not there or something here cannot be, instead of serving without it.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        token_file: str | None = None,
        weights: str | None = None,
        weights_digest: str | None = None,
        model: str | None = None,
        namespace: str | None = None,
        quota: int | None = None,
        ttl_s: int | None = None,
        region_bytes: int | None = None,
        deadline_ms: float = 5000.0,
        l1_keeps: bool = True,
        strict: bool = False,
        **unknown: Any,
    ) -> None:
        self._deadline_ms, self._l1_keeps = deadline_ms, l1_keeps
        self._link: Link | None = None
        self._report: Report | None = None
        try:
            if unknown:
                raise ValueError(f"adapter_params has {sorted(unknown)[0]!r}, which Forebay does not know; it knows {', '.join(_KNOWN)}")
            fingerprint = _fingerprint(weights, weights_digest, model)
        except (OSError, ValueError) as error:
            if strict:
                raise
            _LOGGER.error("forebay: %s; until then LMCache serves without it", error)
        else:
            more: dict[str, Any] = {} if region_bytes is None else {"region_bytes": region_bytes}
            self._link = Link(
                fingerprint, engine="lmcache", address=address, token_file=token_file, namespace=namespace, quota=quota, ttl_s=ttl_s, strict=strict, logger=_LOGGER, **more
            )
            self._report = Report(self._link, _LOGGER)
        self._queue: forebay.CallQueue | None = None
        # One descriptor for the client's answers, which come when the node is there, and for those that are given here.
        self._poll = select.epoll()
        self._own = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._own, select.EPOLLIN)
        self._lock = threading.Lock()
        self._last = 0
        self._pending: dict[int, tuple[int, Callable[[Any], Completion]]] = {}
        self._failed: list[Completion] = []

    def event_fd(self) -> int:
        """Readable while there is something to drain."""
        return self._poll.fileno()

    def submit_batch_get(self, keys: Sequence[str], memoryviews: Sequence[memoryview]) -> int:
        """Loads chunks into this memory; answers for each key whether it is whole and verified there."""
        sizes = [len(view) for view in memoryviews]

        def told(future: int, answer: Any) -> Completion:
            good = [got == size for got, size in zip(answer, sizes, strict=True)]
            if self._report is not None:
                self._report.add(asked=len(sizes), hits=sum(good), loaded=sum(good))
            return future, True, "", good

        return self._submit(len(keys), told, lambda queue, space: queue.submit_get(space, self._keys(space, keys), into=list(memoryviews), deadline_ms=self._deadline_ms))

    def submit_batch_set(self, keys: Sequence[str], memoryviews: Sequence[memoryview]) -> int:
        """Stores chunks; the memory is the call's until it is drained."""

        def told(future: int, answer: Any) -> Completion:
            if self._report is not None:
                self._report.put(answer)
            refused = [str(outcome) for outcome in answer if not outcome]
            return future, not refused, f"refused: {refused[0]}" if refused else "", [bool(outcome) for outcome in answer]

        def submit(queue: forebay.CallQueue, space: forebay.Namespace) -> int:
            return queue.submit_put(space, self._keys(space, keys), list(memoryviews), deadline_ms=self._deadline_ms, caller_keeps=self._l1_keeps)

        return self._submit(len(keys), told, submit)

    def submit_batch_exists(self, keys: Sequence[str]) -> int:
        """Answers for each key whether it is there."""

        def told(future: int, answer: Any) -> Completion:
            return future, True, "", [bool(seen) for seen in answer]

        return self._submit(len(keys), told, lambda queue, space: queue.submit_contains(space, self._keys(space, keys), deadline_ms=self._deadline_ms))

    def submit_batch_delete(self, keys: Sequence[str]) -> int:
        """Forgets chunks."""

        def told(future: int, answer: Any) -> Completion:
            return future, True, "", list(answer)

        return self._submit(len(keys), told, lambda queue, space: queue.submit_forget(space, self._keys(space, keys), deadline_ms=self._deadline_ms))

    def _keys(self, space: forebay.Namespace, keys: Sequence[str]) -> bytes:
        return space.keys([key.encode() for key in keys])

    def _submit(self, count: int, told: Callable[[int, Any], Completion], submit: Callable[[forebay.CallQueue, forebay.Namespace], int]) -> int:
        with self._lock:
            self._last += 1
            future = self._last
            link = self._link
            space, client = (None, None) if link is None else (link.namespace, link.client)
            why = "the node is not there" if link is not None else "the store is not used, as the log said at the start"
            if space is not None and client is not None:
                if self._queue is None:
                    self._queue = client.queue(calls_max=CALLS_MAX)
                    self._poll.register(self._queue.fileno(), select.EPOLLIN)
                try:
                    self._pending[submit(self._queue, space)] = (future, lambda answer: told(future, answer))
                    return future
                except forebay.ForebayError as error:
                    why = str(error)
            self._failed.append((future, False, why, [False] * count))
            os.eventfd_write(self._own, 1)
            return future

    def drain_completions(self) -> list[Completion]:
        """What is finished. Never waits."""
        with self._lock:
            done, self._failed = self._failed, []
            if done:
                os.eventfd_read(self._own)
            if self._queue is not None:
                for ticket, answer in self._queue.drain():
                    future, told = self._pending.pop(ticket)
                    if isinstance(answer, Exception):
                        done.append((future, False, str(answer), None))
                    else:
                        done.append(told(answer))
        if self._report is not None:
            self._report.tick()
        return done

    def close(self) -> None:
        """Waits for stores under way, each at most its deadline."""
        queue = self._queue
        while queue is not None and queue.pending:
            queue.wait(timeout_ms=1000.0)
            self.drain_completions()
        if self._report is not None:
            self._report.say()
        self._poll.close()
        os.close(self._own)
        self._queue = None
        if self._link is not None:
            self._link.close()


_KNOWN = [name for name, parameter in inspect.signature(LmcacheClient).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]


def _fingerprint(weights: str | None, digest: str | None, model: str | None) -> Fingerprint:
    """Raises ValueError and OSError where the weights cannot be told from others."""
    if weights is None and digest is None:
        raise ValueError('the weights that the KV belongs to are not named: add "weights" (a folder or file) or "weights_digest" to adapter_params')
    try:
        digest = digest or forebay.fingerprint.weights_digest(str(weights))
    except (OSError, ValueError) as error:
        raise ValueError(f'{error}: adapter_params takes as "weights" a folder or file that can be read here, or "weights_digest" instead') from error
    release = "unknown"
    with contextlib.suppress(metadata.PackageNotFoundError):
        _versions.look("LMCache", metadata.version("lmcache"))
        release = ".".join(metadata.version("lmcache").split(".")[:2])
    return Fingerprint(
        model=(model or (os.path.basename(os.path.normpath(weights)) if weights else "named by its weights"))[-200:],
        weights=digest[:256],
        # LMCache's server knows nothing of the engine's settings: what else changes KV is for `weights_digest`.
        layout=f"lmcache native 1, release {release}, config {_model.config_digest(weights)}",
        hash="lmcache key",
    )
