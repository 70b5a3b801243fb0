"""Shared by all tests: golden numbers of the reference implementations, and their inputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(2)
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())["cases"]


def saw(*shape: int, a: int = 7919, m: int = 10007, lo: float = -2, hi: float = 2) -> torch.Tensor:
    """The inputs of the golden cases: a deterministic saw-tooth over the row-major index."""
    index = np.arange(int(np.prod(shape)), dtype=np.float64)
    values = lo + (hi - lo) * ((index * a) % m) / (m - 1)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def close(actual: torch.Tensor, expected: object, atol: float = 2e-6) -> None:
    """Equal to the precision that golden.json states: atol 2e-6 max(1, |x|)."""
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=atol, atol=atol)


@pytest.fixture
def golden():
    """`golden("name")` -> inputs, outputs of one case."""
    return lambda name: (GOLDEN[name]["inputs"], GOLDEN[name]["outputs"])


@pytest.fixture(autouse=True, scope="module")
def threads_as_before():
    """Opening a detector sets them for all of torch; the last digits of a training depend on it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
