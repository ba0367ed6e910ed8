from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small operations are faster so, and the machines that run tests are shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Recorded cases of the original implementations."""
    return HERE / "golden"


@pytest.fixture(scope="session")
def manifests() -> Path:
    """Names and shapes of the released checkpoints."""
    return HERE / "manifests"
