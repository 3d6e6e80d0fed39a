"""What the adapters counted, in vLLM's own metrics (`/metrics`), in the words of the line in the log."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

#: vLLM takes back what begins like this when an engine starts anew in a process.
CONNECTOR_BLOCKS = "vllm:forebay_connector_blocks"
TIER_CHUNKS = "vllm:forebay_tier_chunks"
OUTCOMES = "asked (for), hits, loaded, load_failed (and computed), stored, present (there already), refused, dropped (not put for lack of room), prefetched"


class ForebayStats(KVConnectorStats):
    """Blocks by what became of them, since the last time."""

    def reset(self) -> None:
        self.data: dict[str, Any] = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for outcome, count in other.data.items():
            self.data[outcome] = self.data.get(outcome, 0) + count
        return self

    def reduce(self) -> dict[str, int | float]:
        return {f"Forebay blocks {outcome}": count for outcome, count in self.data.items()}

    def is_empty(self) -> bool:
        return not self.data


class ForebayMetrics(KVConnectorPromMetrics):
    """One counter, with a label for what became of blocks."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: dict[int, list[object]]) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        documentation = f"Blocks that ForebayConnector had to do with, by outcome: {OUTCOMES}."
        self._blocks = self._counter_cls(name=CONNECTOR_BLOCKS, documentation=documentation, labelnames=[*labelnames, "outcome"])

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for outcome, count in transfer_stats_data.items():
            self._blocks.labels(*self.per_engine_labelvalues[engine_idx], outcome).inc(count)
