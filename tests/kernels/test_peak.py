import numpy as np
import pytest

from nbrl.kernels import peak
from nbrl.kernels.gemm import HOST_WIDTH


@pytest.mark.parametrize("repeats", [1, 2, 7, 1000])
def test_the_peak_s_arithmetic_is_done(repeats):
    chains = np.float32(3) * np.arange(1, peak.CHAINS + 1, dtype=np.float32)  # they begin at 1, 2, ... times the term
    for _ in range(repeats):
        chains = np.float32(0.5) * chains + np.float32(3)
    assert peak.multiply_add(0.5, 3.0, repeats) == pytest.approx(HOST_WIDTH * chains.sum(), rel=1e-6)
