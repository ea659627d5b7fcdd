"""The DynamicNet: one network, three ways to skip its middle layer, and an `If` in the ONNX file.

python examples/dynamic_depth.py
"""

import tempfile
from pathlib import Path

import torch

import export
from pure import nets


def main() -> None:
    """Run select and branch mode, one control for the batch and one a sample, then the exported file."""
    sizes = {"in_features": 8, "hidden_features": 16, "out_features": 4}
    select, branch = nets.dynamic_net(**sizes), nets.dynamic_net(**sizes, mode="branch")
    params, state = select.init(torch.Generator().manual_seed(0))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    for control in (torch.tensor(0.2), torch.tensor(0.9), torch.tensor([0.2, 0.9, 0.6])):
        extras = {"control": control}
        agree = torch.equal(select(params, x, state, extras), branch(params, x, state, extras))
        print(f"control {control.tolist()}: select and branch agree: {agree}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dynamic.onnx"
        example = (params, x, state, {"control": torch.tensor(0.9)})
        export.to_onnx(branch, example, path, dynamic=(None, {0: "batch"}, None, None))
        f = export.load(path, device="auto")
        for control in (0.2, 0.9):
            extras = {"control": torch.tensor(control)}
            error = (f(params, x, state, extras) - branch(params, x, state, extras)).abs().max()
            print(f"ONNX Runtime on {f.device}, control {control}: largest difference {error:.1e}")


if __name__ == "__main__":
    main()
