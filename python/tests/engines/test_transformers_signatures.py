"""transformers' cache is the one that the prefix cache fills, and the table of versions is true: see signatures.py."""

from __future__ import annotations

from typing import Any

import signatures
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import Cache, DynamicLayer

#: What is called or filled.
VALUES: list[Any] = [
    *(DynamicCache.__init__, DynamicCache.__len__, Cache.get_seq_length, Cache.crop, DynamicLayer.__init__, DynamicLayer.lazy_initialization),
    *(DynamicLayer.update, GenerationMixin.generate),
]


def test_the_cache_is_the_one_that_is_filled() -> None:
    signatures.check("transformers", signatures.interface([], VALUES))


def test_the_document_names_the_version_that_is_tested() -> None:
    signatures.check_row("transformers", "transformers", "vllm", "transformers", "`DynamicCache`")
