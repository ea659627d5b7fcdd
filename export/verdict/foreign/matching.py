"""Which input and output of a file is which tensor of a call: by name, else by order, else as the caller says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from export.errors import ArgumentError, listed, nearest
from export.files.signature_leaves import Leaf
from export.verdict.foreign.flat_call import FlatCall

__all__ = ["matched_inputs", "matched_outputs", "named_axes"]


def matched_inputs(
    file_inputs: Sequence[Leaf],
    call: FlatCall,
    names: Sequence[str],
    chosen: Mapping[str, int | str] | None,
    notes: list[str],
) -> dict[str, str]:
    """Return {file input: name of a tensor of the call}.

    Args:
        file_inputs: what the file takes.
        call: the call.
        names: the names of all its tensors: a module's parameters and buffers, then those in its arguments.
        chosen: the caller's choices, by position among the arguments' tensors or by name.
        notes: a line is added if some were matched by order.

    Raises:
        ArgumentError: if a choice does not exist, or not all inputs can be matched.
    """
    found = _chosen([leaf.name for leaf in file_inputs], call, names, chosen or {})
    rest = [leaf for leaf in file_inputs if leaf.name not in found]
    by_name = {leaf.name: _alike(leaf.name, [n for n in names if n not in found.values()]) for leaf in rest}
    if all(by_name.values()) and len(set(by_name.values())) == len(by_name):
        return found | {name: match for name, match in by_name.items() if match}
    free = [name for name in call.names if name not in found.values()]
    if len(free) > len(rest) and not call.weights and not found:  # leading arguments are inside the file
        owners = dict(zip(call.names, call.owner, strict=True))
        tails = (free[i:] for i in range(len(free)) if i == 0 or owners[free[i]] != owners[free[i - 1]])
        free = next((tail for tail in tails if len(tail) == len(rest)), free)
    leaves = dict(zip(call.names, call.leaves, strict=True))
    fits = len(free) == len(rest) and all(
        leaf.dtype == str(leaves[name].dtype).removeprefix("torch.") and len(leaf.shape) == leaves[name].dim()
        for leaf, name in zip(rest, free, strict=True)
    )
    if not fits:
        lines = [f"the file takes {leaf}" for leaf in rest]
        lines += [f"the call has {name}: {_text(leaves[name])}" for name in free]
        raise ArgumentError(
            "the file's inputs cannot be matched with the call's tensors by name or order; say which is which with "
            "inputs={'file input': position or name of a tensor of the call}" + listed(lines)
        )
    pairs = {leaf.name: name for leaf, name in zip(rest, free, strict=True)}
    notes.append("inputs matched by order: " + ", ".join(f"{file} = {name}" for file, name in pairs.items()))
    return found | pairs


def matched_outputs(
    file_outputs: Sequence[str], names: Sequence[str], notes: list[str]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return {the function's output: the file's} and (name, what is wrong) for those without a partner.

    Args:
        file_outputs: what the file gives.
        names: what the function gives.
        notes: a line is added if they were matched by order.
    """
    by_name = {name: _alike(name, file_outputs) for name in names}
    found = {name: match for name, match in by_name.items() if match}
    if len(found) == len(set(found.values())) and (found and len(found) == min(len(names), len(file_outputs))):
        extra = [name for name in file_outputs if name not in found.values()]
        problems = [(name, "an output of the file that the function does not give") for name in extra]
        missing = [name for name in names if name not in found]
        return found, problems + [(name, "an output of the function that the file does not give") for name in missing]
    if len(names) == len(file_outputs):
        pairs = dict(zip(names, file_outputs, strict=True))
        if list(names) != ["out"]:
            notes.append("outputs matched by order: " + ", ".join(f"{file} = {name}" for name, file in pairs.items()))
        return pairs, []
    problem = f"the file gives {', '.join(file_outputs)}; the function {', '.join(names)}"
    return {}, [("(all)", problem)]


def named_axes(
    graph: onnx.GraphProto,
    taken: Mapping[str, str],
    call: FlatCall,
    dynamic: Sequence[Any] | Mapping[str, Any] | None,
) -> tuple[list[dict[int, str]], list[tuple[str, str]]]:
    """Return the dynamic axes of each tensor in the call's arguments, and (name, problem) of sizes that disagree.

    Args:
        graph: the file's graph.
        taken: {file input: name of a tensor of the call}.
        call: the call.
        dynamic: the caller's axes; None for those that the file names.

    Raises:
        ArgumentError: if `dynamic` does not fit the call.
    """
    axes: dict[str, dict[int, str]] = {name: {} for name in call.names}
    if dynamic is None:
        declared = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
        texts = [dim.dim_param for dims in declared.values() for dim in dims if dim.dim_param]
        fixed = {name for text in texts if not _NAME.fullmatch(text) for name in re.findall(r"[A-Za-z_]\w*", text)}
        for file_name, name in taken.items():
            dims = declared.get(file_name, ())
            named = {i: dim.dim_param for i, dim in enumerate(dims) if _NAME.fullmatch(dim.dim_param)}
            if name in axes:
                axes[name] = {i: size for i, size in named.items() if size not in fixed}
    else:
        axes |= _axes_of(dynamic, call)
    found: dict[str, int] = {}
    problems = []
    for name, leaf in zip(call.names, call.leaves, strict=True):
        for axis, size in list(axes[name].items()):
            if axis >= leaf.dim() or found.setdefault(size, leaf.shape[axis]) != leaf.shape[axis]:
                del axes[name][axis]
                problems.append((name, f"the file calls axis {axis} {size!r}, which is {found.get(size)} elsewhere"))
    return [axes[name] for name in call.names], problems


_NAME = re.compile(r"[A-Za-z_]\w*")


def _axes_of(dynamic: Sequence[Any] | Mapping[str, Any], call: FlatCall) -> dict[str, dict[int, str]]:
    if isinstance(dynamic, Mapping):
        unknown = [name for name in dynamic if name not in call.names]
        if unknown:
            raise ArgumentError(
                f"dynamic names {', '.join(unknown)}, which the call has not{nearest(unknown[0], call.names)}; "
                f"its tensors are {', '.join(call.names)}"
            )
        return {name: dict(entry or {}) for name, entry in dynamic.items()}
    owners = list(dict.fromkeys(call.owner))
    found = {}
    for owner, entry in zip(owners, dynamic, strict=False):
        if entry is not None and not (isinstance(entry, Mapping) and all(isinstance(axis, int) for axis in entry)):
            raise ArgumentError(
                "for a file from elsewhere, dynamic is one {axis: size name} or None per argument, or "
                f"{{tensor's name: {{axis: size name}}}}; got {entry!r}"
            )
        found.update({n: dict(entry or {}) for n, o in zip(call.names, call.owner, strict=True) if o == owner})
    return found


def _chosen(
    file_names: Sequence[str], call: FlatCall, names: Sequence[str], chosen: Mapping[str, int | str]
) -> dict[str, str]:
    found = {}
    for file_name, place in chosen.items():
        if file_name not in file_names:
            raise ArgumentError(
                f"the file has no input {file_name!r}{nearest(file_name, file_names)}; it takes {', '.join(file_names)}"
            )
        if isinstance(place, int):
            if not 0 <= place < len(call.names):
                raise ArgumentError(f"inputs[{file_name!r}] is {place}; the call has {len(call.names)} tensors")
            found[file_name] = call.names[place]
        elif place in names:
            found[file_name] = place
        else:
            raise ArgumentError(f"inputs[{file_name!r}] is {place!r}, which the call has not{nearest(place, names)}")
    return found


def _alike(name: str, candidates: Sequence[str]) -> str | None:
    """Return the candidate of that name: exactly, but for punctuation and case, or the only one that ends in it."""
    if name in candidates:
        return name
    own, plain = _plain(name), [(_plain(candidate), candidate) for candidate in candidates]
    equal = [candidate for text, candidate in plain if text == own]
    ends = [candidate for text, candidate in plain if _ends(text, own) or _ends(own, text)]
    return next((found[0] for found in (equal, ends) if len(found) == 1), None)


def _ends(text: str, end: str) -> bool:
    return text.endswith(f"_{end}") and not end.isdigit()


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def _text(tensor: Any) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
