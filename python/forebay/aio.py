"""The same verbs as coroutines, for asyncio.

    client = await forebay.aio.AsyncClient.connect("unix:/tmp/forebay.sock")
    space = await client.namespace("default")
    blocks = await space.get(keys)

Calls are submitted to a ``CallQueue`` and woken by its descriptor: no thread waits for them in Python. A cancelled call ends soon. One that was lent
buffers (``put``, ``put_group``, ``get(into=...)``) ends *before* the cancellation goes on, within about 50 ms, so that the buffers are the caller's
again. What is done in a thread says so: there the cancellation goes on at once, and the thread ends by the call's deadline.

Every verb that may wait for a node has a twin here. What does no I/O (``key``, ``keys``, ``content_key``, ``describe``, ``stats``, ``expect_fetch``,
``expect_fetches``, ``learn_fetch``, ``region``, ``lend``, ``queue``) is called on ``blocking``.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from ._forebay import Block, CallQueue, Client, Matched, Namespace, Place, Plan
from ._words import Miss, Refused, Stored, Tier, TooSmall

__all__ = ["AsyncClient", "AsyncNamespace"]


class AsyncClient:
    """A client whose verbs are coroutines. Used from one event loop or from several, each in its thread."""

    def __init__(self, client: Client, *, calls_max: int = 256) -> None:
        """Of a client that is connected already.

        calls_max: most calls that are unfinished at a time in one event loop; one more is answered ``busy``.
        """
        self.blocking = client
        """The blocking client: same connections, same memory, same counters."""
        self._calls_max = calls_max
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Calls] = weakref.WeakKeyDictionary()

    @classmethod
    async def connect(cls, address: str, *, calls_max: int = 256, **options: Any) -> AsyncClient:
        """Connects as ``forebay.Client(address, **options)`` does, in a thread, and raises what that raises."""
        client = await asyncio.to_thread(functools.partial(Client, address, **options))
        return cls(client, calls_max=calls_max)

    async def namespace(self, name: str, /, **options: Any) -> AsyncNamespace:
        """``Client.namespace``, in a thread."""
        opened = await asyncio.to_thread(functools.partial(self.blocking.namespace, name, **options))
        return AsyncNamespace(self, opened)

    async def namespaces(self) -> list[dict[str, Any]]:
        """``Client.namespaces``, in a thread."""
        return await asyncio.to_thread(self.blocking.namespaces)

    async def delete_namespace(self, name: str, /) -> None:
        """``Client.delete_namespace``, in a thread. If it is cancelled, the namespace may be deleted all the same."""
        await asyncio.to_thread(self.blocking.delete_namespace, name)

    async def wait_reachable(self, timeout_ms: float = 5000.0) -> bool:
        """``Client.wait_reachable``, in a thread."""
        return await asyncio.to_thread(self.blocking.wait_reachable, timeout_ms)

    async def node_stats(self) -> dict[str, Any]:
        """``Client.node_stats``, in a thread."""
        return await asyncio.to_thread(self.blocking.node_stats)

    def _calls(self) -> _Calls:
        loop = asyncio.get_running_loop()
        calls = self._loops.get(loop)
        if calls is None:
            calls = self._loops[loop] = _Calls(loop, self.blocking.queue(calls_max=self._calls_max))
        return calls


class AsyncNamespace:
    """A namespace whose verbs are coroutines. Arguments and answers are those of ``Namespace``."""

    def __init__(self, client: AsyncClient, namespace: Namespace) -> None:
        self.client = client
        self.blocking = namespace
        """The blocking namespace, for what does no I/O."""

    async def get(self, keys: Any, /, *, into: Any = None, **terms: Any) -> list[Any]:
        """``Namespace.get``: a list of ``Block | Miss``, or with ``into`` of ``int | Miss | TooSmall``."""
        calls = self.client._calls()
        ticket = calls.queue.submit_get(self.blocking, keys, into=into, **terms)
        answer: list[Block | Miss] | list[int | Miss | TooSmall] = await calls.answer(ticket, lent=into is not None)
        return answer

    async def put(self, keys: Any, buffers: Any, /, **terms: Any) -> list[Stored | Refused]:
        """``Namespace.put``."""
        calls = self.client._calls()
        ticket = calls.queue.submit_put(self.blocking, keys, buffers, **terms)
        answer: list[Stored | Refused] = await calls.answer(ticket, lent=True)
        return answer

    async def put_group(self, key: Any, parts: Mapping[str, Any], /, **terms: Any) -> Stored | Refused:
        """``Namespace.put_group``."""
        calls = self.client._calls()
        ticket = calls.queue.submit_put_group(self.blocking, key, parts, **terms)
        answer: Stored | Refused = await calls.answer(ticket, lent=True)
        return answer

    async def match_prefix(self, keys: Any, /, **terms: Any) -> Matched:
        """``Namespace.match_prefix``."""
        calls = self.client._calls()
        ticket = calls.queue.submit_match(self.blocking, keys, **terms)
        answer: Matched = await calls.answer(ticket)
        return answer

    async def contains(self, keys: Any, /, **terms: Any) -> list[Tier | Miss]:
        """``Namespace.contains``."""
        calls = self.client._calls()
        ticket = calls.queue.submit_contains(self.blocking, keys, **terms)
        answer: list[Tier | Miss] = await calls.answer(ticket)
        return answer

    async def get_ranges(self, keys: Any, ranges: Sequence[tuple[int, int]], /, **terms: Any) -> list[Block | Miss]:
        """``Namespace.get_ranges``."""
        calls = self.client._calls()
        ticket = calls.queue.submit_get_ranges(self.blocking, keys, ranges, **terms)
        answer: list[Block | Miss] = await calls.answer(ticket)
        return answer

    async def get_lent(self, keys: Any, places: Sequence[Place], /, **terms: Any) -> list[int | Miss | TooSmall]:
        """``Namespace.get_lent``, in a thread. If it is cancelled, the call goes on to its end, and has the places until then."""
        return await asyncio.to_thread(functools.partial(self.blocking.get_lent, keys, places, **terms))

    async def touch(self, keys: Any, /, **terms: Any) -> None:
        """``Namespace.touch``: returns when it has been said, or dropped."""
        calls = self.client._calls()
        await calls.answer(calls.queue.submit_touch(self.blocking, keys, **terms))

    async def report(self, **counts: int) -> bool:
        """``Namespace.report``: returns when it has been said, or not."""
        calls = self.client._calls()
        said: bool = await calls.answer(calls.queue.submit_report(self.blocking, **counts))
        return said

    async def prefetch(self, keys: Any, /, **terms: Any) -> None:
        """``Namespace.prefetch``: returns when it has been said, or dropped."""
        calls = self.client._calls()
        await calls.answer(calls.queue.submit_prefetch(self.blocking, keys, **terms))

    async def plan_fetch(self, keys: Any, /, **terms: Any) -> Plan:
        """``Namespace.plan_fetch``."""
        calls = self.client._calls()
        answer: Plan = await calls.answer(calls.queue.submit_plan(self.blocking, keys, **terms))
        return answer

    async def forget(self, keys: Any, /, **terms: Any) -> list[bool]:
        """``Namespace.forget``."""
        calls = self.client._calls()
        ticket = calls.queue.submit_forget(self.blocking, keys, **terms)
        answer: list[bool] = await calls.answer(ticket)
        return answer


class _Calls:
    """The calls of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: CallQueue) -> None:
        self.queue = queue
        # Held weakly by the client, strongly by the calls under way: a loop that is gone is not kept by its own futures.
        self._loop = weakref.ref(loop)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        loop.add_reader(queue.fileno(), self._finished)

    async def answer(self, ticket: int, *, lent: bool = False) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        try:
            outcome = await asyncio.shield(future)
        except asyncio.CancelledError:
            self.queue.cancel(ticket)
            while lent and not future.done():
                # Cancelled again or not: until the call has ended its buffers are not the caller's.
                try:
                    await asyncio.shield(future)
                except asyncio.CancelledError:
                    continue
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _finished(self) -> None:
        for ticket, outcome in self.queue.drain():
            future = self._waiting.pop(ticket, None)
            if future is not None and not future.done():
                future.set_result(outcome)
