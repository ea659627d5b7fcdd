"""Files that torch.onnx wrote of other people's models, judged by one command each: as they are, and with a weight off.

`python -m parity_tests.foreign_files [NAME …] [--folder DIR]` writes a ResNet of torchvision, a ViT of timm, a BERT and
a GPT-2 of transformers with random weights by `torch.onnx.export`, with a dynamic batch (and length), and runs
`pure-export verify FILE --against TARGET --weights … --inputs …` on each: it must pass. Then one weight is scaled by
1.01 in a copy of the file: it must fail and name the node that reads it. The versions, times and outcomes are printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["MODELS", "Model", "reader", "scaled", "tiny", "write"]

LANGUAGE_MODELS = '''"""Small language models with random weights."""

import torch
import transformers


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    return transformers.BertModel(config).eval()


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=200, n_embd=64, n_layer=2, n_head=4, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()
'''
"""What a user's own file of models may look like; `pure-export` reads it by its path."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of someone else's.

    Attributes:
        name: what it is called here.
        target: what `--against` takes; a file of the folder stands in front of its colon.
        make: makes the module, in evaluation mode.
        inputs: makes its inputs by name.
        weight: the initialiser that is scaled.
    """

    name: str
    target: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    weight: str


def _resnet() -> nn.Module:
    import torchvision  # the four libraries are optional

    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


def _vit() -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224").eval()


def _language_model(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        scope: dict[str, Any] = {}
        exec(LANGUAGE_MODELS, scope)
        return scope[name]()

    return make


def _image(size: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"x": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))}


def _tokens(mask: bool) -> Callable[[], dict[str, Tensor]]:
    def make() -> dict[str, Tensor]:
        tokens = {"input_ids": torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(1))}
        if mask:
            tokens["attention_mask"] = torch.ones(2, 12, dtype=torch.long)
            tokens["attention_mask"][1, 8:] = 0
        return tokens

    return make


MODELS = (
    Model("resnet18", "torchvision:resnet18", _resnet, _image(96), "layer2.0.conv2.weight"),
    Model("vit_tiny", "timm:vit_tiny_patch16_224", _vit, _image(224), "patch_embed.proj.weight"),
    Model("bert", "language_models.py:bert", _language_model("bert"), _tokens(True), "pooler.dense.weight"),
    Model(
        "gpt2", "language_models.py:gpt2", _language_model("gpt2"), _tokens(False), "transformer.h.0.mlp.c_fc.weight"
    ),
)


def write(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Write a module's file by torch.onnx.export, with a dynamic batch and, of tokens, a dynamic length."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    sizes = {name: {0: batch, 1: length} if x.dtype == torch.long else {0: batch} for name, x in inputs.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx's own
        torch.onnx.export(module, (), path, kwargs=inputs, dynamic_shapes=sizes, external_data=False, verbose=False)


def scaled(path: Path, name: str, factor: float, out: Path) -> Path:
    """Write a copy of a file with an initialiser scaled."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    onnx.save(model, out)
    return out


def reader(path: Path, name: str) -> str:
    """Return the name of the node that computes with an initialiser, seen through transpositions and casts of it."""
    model = onnx.load(path, load_external_data=False)
    names = {name}
    for node in model.graph.node:
        if names & set(node.input):
            if node.op_type not in ("Transpose", "Cast", "Reshape", "Identity"):
                return node.name
            names.update(node.output)
    raise ValueError(f"nothing in {path} reads {name}")


def tiny(name: str) -> Model:
    """Return a model by name."""
    return next(model for model in MODELS if model.name == name)


def judged(model: Model, folder: Path, path: Path, *more: str) -> tuple[dict[str, Any], float]:
    """Run the command on a file; return its JSON and the seconds it took."""
    target = model.target.replace("language_models.py", str(folder / "language_models.py"))
    command = [sys.executable, "-m", "export.app.command_line", "verify", str(path), "--against", target]
    command += ["--weights", str(folder / f"{model.name}.safetensors"), "--inputs", str(folder / f"{model.name}.npz")]
    began = time.perf_counter()
    ran = subprocess.run([*command, "--json", *more], capture_output=True, text=True, check=False)
    if not ran.stdout:
        raise RuntimeError(ran.stderr)
    (verdict,) = json.loads(ran.stdout)["verdicts"].values()
    return verdict, time.perf_counter() - began


def prepared(model: Model, folder: Path) -> tuple[Path, Path]:
    """Write a model's file, weights and inputs, and the copy with one weight off; return both files."""
    module, inputs = model.make(), model.inputs()
    (folder / "language_models.py").write_text(LANGUAGE_MODELS)
    state = {name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
    save_file(state, folder / f"{model.name}.safetensors")
    np.savez(folder / f"{model.name}.npz", **{name: x.numpy() for name, x in inputs.items()})
    path = folder / f"{model.name}.onnx"
    write(module, inputs, path)
    return path, scaled(path, model.weight, 1.01, folder / f"{model.name}_off.onnx")


def main(argv: Sequence[str] | None = None) -> int:
    """Judge the files; return 0 if every outcome is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*(model.name for model in MODELS), []])
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder unless given")
    given = parser.parse_args(argv)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="foreign-files-"))
    folder.mkdir(parents=True, exist_ok=True)
    packages = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "torchvision", "timm", "transformers")
    print(", ".join(f"{package} {version(package)}" for package in packages))
    right = True
    for model in MODELS:
        if given.names and model.name not in given.names:
            continue
        path, off = prepared(model, folder)
        verdict, seconds = judged(model, folder, path)
        wrong, failing = judged(model, folder, off)
        node, expected = (wrong["divergence"] or {}).get("node"), reader(off, model.weight)
        right &= verdict["passed"] and wrong["status"] == "fail" and node == expected
        print(
            f"{model.name}: {verdict['status']}, worst ratio {verdict['worst']:.2f} in {len(verdict['rows'])} "
            f"comparisons, {seconds:.0f} s; {model.weight} x 1.01: {wrong['status']} at {node!r} "
            f"(reads it: {expected!r}), {failing:.0f} s",
            flush=True,
        )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
