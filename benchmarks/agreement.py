"""When two results count as the same: equal shapes and dtypes, and differences of a few roundings."""

import torch

from pure import tree

# Two correct orders of the same sums differ by a few roundings a layer; the deepest network timed here has 32 layers.
ROUNDINGS = 64


def same_leaves(reference: object, result: object) -> None:
    """Compare two trees leaf by leaf, in tree order; their containers and names may differ.

    A leaf agrees where the root mean square of the difference is at most `ROUNDINGS` · eps of its own root mean square,
    with eps that of its dtype.

    Args:
        reference: A tensor or a tree of tensors.
        result: The same leaves in the same order.

    Raises:
        AssertionError: The number of leaves, a shape, a dtype or a value differs.
    """
    expected, given = tree.leaves(reference), tree.leaves(result)
    assert len(expected) == len(given), f"{len(expected)} leaves against {len(given)}"
    for index, (leaf, other) in enumerate(zip(expected, given, strict=True)):
        shapes = f"leaf {index}: {leaf.dtype} {tuple(leaf.shape)} against {other.dtype} {tuple(other.shape)}"
        assert (leaf.shape, leaf.dtype) == (other.shape, other.dtype), shapes
        size = root_mean_square(leaf)
        error = root_mean_square(leaf.double() - other.double())
        allowed = ROUNDINGS * torch.finfo(leaf.dtype).eps * size
        # Written so that NaN, which compares as false, does not pass.
        assert error <= allowed, f"leaf {index}: root mean square error {error:.3g}, allowed {allowed:.3g}"


def root_mean_square(leaf: torch.Tensor) -> float:
    """In float64, whatever the leaf's dtype."""
    return leaf.detach().double().square().mean().sqrt().item()
