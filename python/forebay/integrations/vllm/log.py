"""Where vLLM's adapters write: a logger below vLLM's own. That one alone has a handler, and what is said elsewhere below a warning is never seen."""

from __future__ import annotations

from vllm.logger import init_logger

logger = init_logger("vllm.forebay")
