import resource

import pytest
import torch

from coalign.training.memory import keep_freed_memory


def faults(size: int) -> int:
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin


def test_a_block_that_was_freed_serves_again_without_new_pages():
    if not keep_freed_memory():
        pytest.skip("this C library has no mallopt")
    size = 16 << 20  # 64 MiB, which glibc would map anew each time
    assert min(faults(size) for _ in range(12)) < 64  # older libraries take new pages a few times before
