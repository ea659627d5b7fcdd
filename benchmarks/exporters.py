"""`export.to_onnx` against `torch.onnx.export(dynamo=True)`: the time to write a file, and the file's latency.

Both write the same network with the same weights, ours from the pure block and theirs from torchvision's module, with
a dynamic batch. Both files run in ONNX Runtime under the same options.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import export
from benchmarks.harness import QUICK, Budget, Comparison, Contender, Measurement, measure
from pure import nets
from pure.block import Block
from pure.interop import from_state_dict

NAME = "exporters"
OPSET = 20

NETWORKS: dict[str, Callable[[], Block]] = {
    "ResNet-50": nets.resnet50,
    "DenseNet-121": nets.densenet121,
}


def measurements(quick: bool = False) -> Iterator[Measurement]:
    """For each network the export, then one image and eight through both files."""
    for name in list(NETWORKS)[: 1 if quick else None]:
        with tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
            ours, theirs = Path(folder, "ours.onnx"), Path(folder, "theirs.onnx")
            rounds = Budget(rounds=1 if quick else 5, sample_seconds=0, warm_up_seconds=0, warm_up_calls=1)
            yield measure(exports(name, ours, theirs), rounds)
            for batch in (1, 8):
                yield latency(f"latency: {name}, batch {batch}", theirs, ours, batch, quick)


def exports(name: str, ours: Path, theirs: Path) -> Comparison:
    """Writing the two files."""
    import torchvision  # deferred: the command line imports every benchmark, and this takes a second

    block = NETWORKS[name]()
    torch.manual_seed(0)
    module = torchvision.models.get_model(name.lower().replace("-", "")).eval()
    params, state = from_state_dict(block, module.state_dict(), source="torchvision")
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    contenders = (
        Contender(
            "torch.onnx.export",
            lambda: by_torch(module, (x,), theirs, dynamic_shapes=({0: torch.export.Dim("batch")},)),
        ),
        Contender("export.to_onnx", lambda: by_export(block, params, state, x, ours)),
    )
    return Comparison(f"export: {name}", contenders, lambda *_: same(ours, theirs, x))


def by_torch(module: torch.nn.Module, given: tuple[torch.Tensor, ...], path: Path, **options: Any) -> None:
    """PyTorch's own exporter, with sizes as they are unless the options say otherwise."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, given, path, dynamo=True, opset_version=OPSET, verbose=False, **options)


def by_export(block: Block, params: Any, state: Any, x: torch.Tensor, path: Path) -> None:
    """This library's, with the weights in the file."""
    export.to_onnx(block, (params, x, state), path, bake=(0, 2), dynamic=(None, {0: "batch"}, None), opset=OPSET)


def session(path: Path) -> onnxruntime.InferenceSession:
    """The file with ONNX Runtime's defaults, on as many threads as PyTorch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def caller(path: Path, x: np.ndarray) -> Callable[[], Any]:
    """A call of the file."""
    opened = session(path)
    feed = {opened.get_inputs()[0].name: x}
    return lambda: opened.run(None, feed)[0]


def agree(expected: Any, given: Any) -> None:
    """Raise where two outputs differ by more than rounding."""
    error = np.linalg.norm(given.astype(np.float64) - expected) / np.linalg.norm(expected)
    assert error < 1e-5, f"the outputs differ by {error:.1e}"


def same(ours: Path, theirs: Path, x: torch.Tensor) -> None:
    """Raise where the two files compute different things."""
    agree(caller(theirs, x.numpy())(), caller(ours, x.numpy())())


def latency(name: str, theirs: Path, ours: Path, batch: int, quick: bool) -> Measurement:
    """Time a call of both files."""
    x = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
    contenders = Contender("torch.onnx.export's file", caller(theirs, x)), Contender("our file", caller(ours, x))
    return measure(Comparison(name, contenders, agree), QUICK if quick else Budget(rounds=40, sample_seconds=0.2))
