"""torch.onnx, Polygraphy and Optimum beside ours, in float32."""

# Each library is imported where it is compared: no machine of the tests has all of them.

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import numpy as np
import torch

import export
from parity_tests.peers.comparison import compared, distance, inputs, network

FLOAT32 = 1e-5
LOADER = """
import numpy as np


def load_data():
    yield {"x": np.load("x.npy")}
"""


def in_new_folder(run: Callable[[], float]) -> Callable[[], float]:
    """Run a function in a folder of its own."""

    @wraps(run)
    def wrapped() -> float:
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                return run()
            finally:
                os.chdir(before)

    return wrapped


def command(*words: str) -> str:
    """Run a console command that lies beside this Python, and return what it printed."""
    done = subprocess.run([Path(sys.executable).with_name(words[0]), *words[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def only_output(path: str, x: torch.Tensor) -> torch.Tensor:
    """Return the one output of a file, whoever wrote it."""
    outputs = export.load(path, device="cpu")(x)
    if isinstance(outputs, torch.Tensor):
        return outputs
    (output,) = outputs.values()
    return output


def exported() -> tuple[torch.nn.Module, torch.Tensor]:
    """Write `net.onnx` of a small network; return it as a module, and the input, which lies in `x.npy`."""
    block, params, module = network(torch.float32)
    x = inputs(5, 4, dtype=torch.float32)
    export.to_onnx(block, (params, x), "net.onnx", bake=(0,))
    np.save("x.npy", x.numpy())
    return module, x


@compared("torch", "torch.onnx.export", "export.to_onnx", tolerance=FLOAT32)
@in_new_folder
def files_of_torch() -> float:
    module, x = exported()
    torch.onnx.export(module.eval(), (x,), "theirs.onnx", dynamic_shapes=({0: "batch"},), verbose=False)
    assert export.verify(module, (x,), "theirs.onnx", device="cpu").passed
    return distance(only_output("theirs.onnx", x), only_output("net.onnx", x))


@compared("polygraphy", "polygraphy run --onnxrt --data-loader-script", "export.load", tolerance=FLOAT32)
@in_new_folder
def runs_of_polygraphy() -> float:
    from polygraphy.comparator import RunResults

    _, x = exported()
    Path("loader.py").write_text(LOADER)
    command(
        "polygraphy", "run", "net.onnx", "--onnxrt", "--data-loader-script", "loader.py", "--save-outputs", "out.json"
    )
    ((_, iterations),) = RunResults.load("out.json").items()
    (theirs,) = iterations[0].values()
    return distance(theirs, export.load("net.onnx", device="cpu")(x))


@compared("polygraphy", "polygraphy surgeon extract", "export.to_onnx of one output", tolerance=FLOAT32)
@in_new_folder
def extracts_of_polygraphy() -> float:
    """The hidden layer: cut out of the file by its tensor's name, and exported as a function."""
    import onnx

    module, x = exported()
    (tanh,) = [node for node in onnx.load("net.onnx").graph.node if node.op_type == "Tanh"]
    command("polygraphy", "surgeon", "extract", "net.onnx", "-o", "theirs.onnx", "--outputs", f"{tanh.output[0]}:auto")
    export.to_onnx(lambda x: module[:2](x), (x,), "ours.onnx")
    return distance(only_output("theirs.onnx", x), only_output("ours.onnx", x))


@compared("polygraphy", "polygraphy debug reduce", "verdict.divergence", tolerance=0.0)
@in_new_folder
def reductions_of_polygraphy() -> float:
    """A file with a wrong weight: both point at the product that reads it; 0 if they do."""
    import onnx
    from onnx import numpy_helper

    module, x = exported()
    model = onnx.load("net.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("fc2.weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(model, "wrong.onnx")
    verdict = export.verify(module, (x,), "wrong.onnx", check=False, device="cpu")
    assert not verdict.passed
    assert verdict.divergence is not None
    Path("wrong.py").write_text(CHECK)
    words = [
        "debug",
        "reduce",
        "wrong.onnx",
        "-o",
        "reduced.onnx",
        "--mode",
        "linear",
        "--check",
        sys.executable,
        "wrong.py",
    ]
    command("polygraphy", *words)
    (left,) = onnx.load("reduced.onnx").graph.node
    return float(left.output[0] not in str(verdict.divergence))


CHECK = """
import sys

import onnx
from onnx import numpy_helper

model = onnx.load("polygraphy_debug.onnx")
right = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load("net.onnx").graph.initializer}
sys.exit(any((numpy_helper.to_array(t) != right[t.name]).any() for t in model.graph.initializer if t.name in right))
"""


@compared(
    "optimum-onnx",
    "optimum-cli export onnx, ORTModelForSequenceClassification",
    "export.to_onnx, export.load",
    module="optimum.onnxruntime",
    tolerance=FLOAT32,
)
@in_new_folder
def files_of_optimum() -> float:
    """A BERT of two layers with random weights."""
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained("bert")
    command(
        "optimum-cli", "export", "onnx", "--model", "bert", "--task", "text-classification", "--no-post-process", "out"
    )
    given = {
        "input_ids": torch.arange(14).reshape(2, 7),
        "attention_mask": torch.ones(2, 7, dtype=torch.int64),
        "token_type_ids": torch.zeros(2, 7, dtype=torch.int64),
    }
    theirs = ORTModelForSequenceClassification.from_pretrained("out")(**given).logits

    def logits(input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        return model(input_ids, attention_mask, token_type_ids).logits

    export.to_onnx(logits, tuple(given.values()), "ours.onnx")
    return distance(theirs, export.load("ours.onnx", device="cpu")(*given.values()))
