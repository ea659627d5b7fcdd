"""A gradient's form for CUDA has few more launches than PyTorch's recorded operators, and fewer than that for a CPU."""

import pytest

from benchmarks import cuda_forms


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(cuda_forms.NETWORKS))
def test_the_form_for_cuda_is_near_the_recorded_operators(network: str) -> None:
    """The floor has one launch for each part of a convolution's derivative, as cuDNN; see `benchmarks.cuda_forms`."""
    traced = cuda_forms.recorded(network, 224)
    least = cuda_forms.floor(traced)
    found = {target: cuda_forms.counted(traced, target) for target in ("cpu", "cuda")}
    assert found["cuda"]["launches"] <= 1.3 * least["launches"]
    assert found["cuda"]["bytes"] <= 1.2 * least["bytes"]  # cuDNN exchanges no batch and channels; a Conv has to
    assert found["cuda"]["launches"] < found["cpu"]["launches"]
    assert found["cuda"]["bytes"] < found["cpu"]["bytes"]
