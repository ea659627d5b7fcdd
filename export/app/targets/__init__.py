"""Targets: what the commands onnx, flow, audit, quantize and verify work on, named by one syntax.

A target is one of

- `skip_mlp`: a row of the catalogue (`pure-export list`), with its example input;
- `resnet18`: a network of `pure.nets` whose options all have defaults;
- `package.module:attribute`: an attribute of a module that can be imported, from the working folder too;
- `path/to/net.py:attribute`: an attribute of a file; modules beside it can be imported while it is loaded;
- `timm:NAME`, `torchvision:NAME`: a library's model, with random weights, in evaluation mode.

An attribute that is an `nn.Module`, a block or a function is taken as it is. A class derived from `nn.Module` or
`Block`, and a function without required parameters that returns a module or a block, is called. Random weights are
drawn from `--seed`.
"""

from __future__ import annotations

from export.app.targets.calls import ready
from export.app.targets.inputs import Given, read
from export.app.targets.judging import write_float_file
from export.app.targets.resolution import Kind, Target, resolve, running

__all__ = ["Given", "Kind", "Target", "read", "ready", "resolve", "running", "write_float_file"]
