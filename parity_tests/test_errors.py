"""Both packages' errors have one base and one `ArgumentError`, and each survives pickling and says how to go on."""

import copy
import importlib
import pickle
import pkgutil

import pytest
import torch

import export
import pure
from pure_export_shared import PureExportError


def error_classes() -> list[type[PureExportError]]:
    """Every error class of the project, public or not, found by importing all modules."""
    for root in (pure, export):
        for info in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            importlib.import_module(info.name)
    found: list[type[PureExportError]] = [PureExportError]
    for kind in found:
        found.extend(below for below in kind.__subclasses__() if below not in found and is_ours(below))
    return found


def is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in {"pure", "export", "pure_export_shared"}


ERRORS = error_classes()
KEYWORDS = {
    "UnsupportedOpError": {"op": "aten.cholesky.default", "dtype": "float64", "source": "net.py:3", "path": "layer1"},
    "SpecialisedSizeError": {"name": "batch", "source": "net.py:3"},
    "CheckpointError": {"missing": ("fc.weight",), "unexpected": ("fc.wieght",), "misfits": {"fc.bias": "shape (3,)"}},
}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_pickling_keeps_type_message_and_attributes(kind: type[PureExportError], again: object) -> None:
    assert callable(again)
    error = kind("the sizes do not fit", **KEYWORDS.get(kind.__name__, {}))
    error.add_note("seen in step 3")
    if isinstance(error, pure.errors.PureError):
        error.path = ("layer1", "conv2")
    found = again(error)
    assert type(found) is kind
    assert str(found) == str(error)
    assert found.args == error.args
    assert vars(found) == vars(error)


@pytest.mark.parametrize("kind", ERRORS)
def test_the_docstring_shows_what_fails_and_the_fix(kind: type[PureExportError]) -> None:
    assert kind.__doc__ is not None
    assert "Fails" in kind.__doc__
    assert "Fix: " in kind.__doc__


def test_every_listed_error_has_the_common_base() -> None:
    for module in (pure.errors, export.errors):
        listed = [getattr(module, name) for name in module.__all__]
        kinds = {kind for kind in listed if isinstance(kind, type)}
        warned = {kind for kind in kinds if issubclass(kind, Warning)}
        assert kinds - warned <= set(ERRORS)
        assert all("Fix: " in (kind.__doc__ or "") for kind in warned)


def test_argument_errors_of_both_packages_are_caught_by_either_name() -> None:
    assert pure.errors.ArgumentError is export.errors.ArgumentError
    with pytest.raises(export.errors.ArgumentError, match="expected") as of_pure:
        pure.Linear(3, 4).init(0)  # type: ignore[arg-type]
    with pytest.raises(pure.errors.ArgumentError) as of_export:
        export.to_onnx(torch.relu, (3.0, 4.0), "never.onnx", bake=(9,))
    for error in (of_pure.value, of_export.value):
        assert isinstance(error, TypeError)
        assert isinstance(error, ValueError)
        assert isinstance(error, pure.errors.PureError)
        assert isinstance(error, export.errors.ExportError)


def test_a_block_s_path_is_kept_by_an_argument_error() -> None:
    block = pure.Sequential(first=pure.Linear(3, 3))
    params, _ = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(pure.errors.ArgumentError) as caught:
        block(params, "text")
    assert caught.value.path == ("first",)
    assert str(caught.value) == f"{caught.value.message} [in first]"
