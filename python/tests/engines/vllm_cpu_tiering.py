"""vLLM's tiering with its own CPU KV memory in the GPU's place, for tests only: the one part of it that asks for a GPU is the worker that copies
between the two, and this is one that copies between CPU memory and CPU memory, at once and in order.

Everything else is vLLM's: connector, scheduler, tiering manager, CPU tier in shared memory. Written for blocks of one group and chunks of one
block.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.kv_offload.base import CanonicalKVCaches, OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class CpuTieringSpec(TieringOffloadingSpec):
    """See the module."""

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        return CpuWorker(self, kv_caches)


class CpuWorker(OffloadingWorker):
    """See the module."""

    def __init__(self, spec: Any, kv_caches: CanonicalKVCaches) -> None:
        assert spec.blocks_per_chunk == 1 and len(kv_caches.group_data_refs) == 1
        self._region = SharedOffloadRegion(
            engine_id=spec.config.engine_id,
            num_chunks=spec.num_chunks,
            rank=spec.config.parallel.rank,
            kv_bytes_per_chunk=spec.kv_bytes_per_chunk,
            cpu_page_size=spec.cpu_page_size_per_worker,
        )
        self._pairs = []
        for tensor in kv_caches.tensors:
            engine = tensor.tensor.view(torch.int8).view(-1, tensor.page_size_bytes)
            self._pairs.append((engine, self._region.create_next_worker_view(tensor.page_size_bytes)))
        self._done: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, src_spec, dst_spec, to_engine=False)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, dst_spec, src_spec, to_engine=True)

    def _copy(self, job_id: int, blocks: Any, chunks: Any, to_engine: bool) -> bool:
        block_ids = torch.from_numpy(blocks.block_ids.astype("int64"))
        chunk_ids = torch.from_numpy(chunks.block_ids.astype("int64"))
        nbytes = 0
        for engine, tier in self._pairs:
            if to_engine:
                engine.index_copy_(0, block_ids, tier[chunk_ids])
            else:
                tier[chunk_ids] = engine[block_ids]
            nbytes += len(block_ids) * engine.shape[1]
        self._done.append(TransferResult(job_id=job_id, success=True, transfer_size=nbytes, transfer_time=1e-6))
        return True

    def get_finished(self) -> list[TransferResult]:
        done, self._done = self._done, []
        return done

    def wait(self, job_ids: set[int]) -> None:
        """All is done when it was submitted."""

    def shutdown(self) -> None:
        self._pairs = []
        self._region.cleanup()
