"""SGLang's host pools as memory that is lent: where each page lies, and what makes its bytes interchangeable.

A pool says itself where a page's bytes are (`get_page_buffer_meta`); its tensors are borrowed once, and a page becomes places in them. No byte is
read or copied here. Nothing here knows the node.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

import torch

import forebay
from forebay.integrations._common import digest_text

#: Attributes that say what a pool's bytes mean, as far as a pool has them.
_SHAPE = (
    *("layout", "dtype", "page_size", "layer_num", "target_layer_num", "head_num", "head_dim", "v_head_dim", "head_group_num", "start_layer", "end_layer"),
    *("kv_lora_rank", "qk_rope_head_dim", "kv_cache_dim", "storage_format_tag", "indexer_page_stride_size", "indexer_dtype", "num_mamba_layers"),
    *("temporal_dtype", "temporal_state_elem_size", "conv_dtype", "conv_state_elem_sizes", "conv_state_shapes", "row_bytes", "page_bytes"),
)
#: Bytes of the largest block that a node takes.
BLOCK_BYTES_MAX = 64 << 20


class CannotServe(ValueError):
    """Why a pool's pages cannot be kept, in a sentence."""


class LentPool:
    """One host pool. Raises CannotServe where its pages cannot be addressed."""

    def __init__(self, pool: Any, name: str) -> None:
        self.name = name
        self._pool = pool
        #: Tokens of a page, as host indices count them.
        self.page_size: int = int(getattr(pool, "page_size", 1) or 1)
        if not hasattr(pool, "get_page_buffer_meta"):
            raise CannotServe(f"the pool {name!r} ({type(pool).__name__}) does not say where its pages lie")
        # The largest first: pointers into a view and into the whole of it are the same to us.
        self._starts: list[int] = []
        self._regions: list[forebay.Region] = []
        for memory in sorted(_tensors(pool), key=lambda tensor: tensor.data_ptr()):
            self._starts.append(memory.data_ptr())
            self._regions.append(forebay.Region.borrow(memory.numpy()))
        try:
            _, sizes = pool.get_page_buffer_meta(torch.zeros(self.page_size, dtype=torch.int64))
        except Exception as error:
            raise CannotServe(f"the pool {name!r} ({type(pool).__name__}, layout {pool.layout}) has no pages of its own: {error}") from error
        self._sizes = [int(size) for size in sizes]
        #: Bytes of a page.
        self.page_nbytes = sum(self._sizes)
        if not 0 < self.page_nbytes <= BLOCK_BYTES_MAX:
            raise CannotServe(
                f"a page of the pool {name!r} has {self.page_nbytes:,} bytes, and a block has {BLOCK_BYTES_MAX:,} at most: use a smaller --page-size"
            )
        self.places(torch.zeros(self.page_size, dtype=torch.int64))

    def places(self, host_indices: torch.Tensor) -> forebay.Spans:
        """Where the pages of these indices lie, one block a page."""
        pointers, sizes = self._pool.get_page_buffer_meta(host_indices)
        each = len(self._sizes)
        parts = []
        for number, nbytes in enumerate(self._sizes):
            of_part = pointers[number::each]
            if any(size != nbytes for size in sizes[number::each]):
                raise CannotServe(f"pages of the pool {self.name!r} are not of one length")
            at = bisect.bisect_right(self._starts, of_part[0]) - 1
            if at < 0:
                raise CannotServe(f"pages of the pool {self.name!r} lie in memory that it does not show")
            start = self._starts[at]
            try:
                parts.append(self._regions[at].spans([pointer - start for pointer in of_part], nbytes))
            except (forebay.InvalidArgument, OverflowError) as error:
                # Nothing is ever read or written beside the pool.
                raise CannotServe(f"pages of the pool {self.name!r} lie in memory that it does not show: {error}") from error
        return parts[0] if each == 1 else forebay.Spans.joined(*parts)

    def layout(self) -> str:
        """What the bytes of a page mean, as a digest: two pools of equal layout may exchange pages."""
        pool = self._pool
        shape = [f"{name} {getattr(pool, name)}" for name in _SHAPE if getattr(pool, name, None) is not None]
        return digest_text(type(pool).__name__, *shape, *(str(size) for size in self._sizes))


def _tensors(pool: Any) -> list[torch.Tensor]:
    """The memory of a pool, as one run of bytes for each allocation."""
    found: dict[int, torch.Tensor] = {}
    for tensor in _walk(vars(pool).values()):
        # Its tables of free slots and of pointers are numbers, not pages.
        if tensor.device.type != "cpu" or tensor.dtype in (torch.int64, torch.uint64, torch.bool) or tensor.nbytes == 0:
            continue
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = torch.empty(0, dtype=torch.uint8).set_(storage)
    return list(found.values())


def _walk(values: Any, depth: int = 2) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif depth and isinstance(value, Sequence) and not isinstance(value, str | bytes):
            yield from _walk(value, depth - 1)


def flat(tensor: torch.Tensor) -> memoryview:
    """A contiguous tensor's own bytes."""
    if not tensor.is_contiguous():
        raise CannotServe("a tensor that is not contiguous is no run of bytes")
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())
