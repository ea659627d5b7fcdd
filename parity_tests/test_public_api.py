"""The public interface changes only on purpose, and everything in it is documented."""

import difflib
import importlib
import inspect
import json
import pkgutil
from types import ModuleType

import export
from parity_tests.public_api import (
    COMMAND,
    GOLDEN,
    ROOTS,
    describe,
    public_api,
    public_methods,
    public_modules,
    public_values,
)


def test_the_public_interface_is_the_recorded_one() -> None:
    recorded = GOLDEN.read_text(encoding="utf-8").splitlines()
    current = json.dumps(public_api(), indent=1, ensure_ascii=False).splitlines()
    changes = "\n".join(difflib.unified_diff(recorded, current, "recorded", "current", n=1, lineterm=""))
    assert not changes, (
        f"the public interface changed; if that is meant, run `{COMMAND}` and commit the file\n{changes}"
    )


def test_everything_public_has_a_docstring() -> None:
    bare = []
    for module_name, module in public_modules().items():
        if not module.__doc__:
            bare.append(module_name)
        for name, value in public_values(module).items():
            if isinstance(value, ModuleType) or not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            # A dataclass without a docstring is given its own signature as one.
            if not value.__doc__ or value.__doc__.startswith(f"{name}("):
                bare.append(f"{module_name}.{name}")
            if inspect.isclass(value):
                bare += [
                    f"{module_name}.{name}.{method}"
                    for method, function in public_methods(value).items()
                    if not inspect.getdoc(getattr(value, method)) and function is not None
                ]
    assert not bare, f"no docstring: {bare}"


def test_exports_functions_take_subjects_by_position_and_options_by_name() -> None:
    """One order everywhere: the function, its arguments, the file; what is optional beside those has a name."""
    positional = {
        "to_onnx": ["fn", "args", "path"],
        "verify": ["fn", "args", "path"],
        "jit": ["fn"],
        "load": ["path", "device"],
        "quantize": ["path", "out", "batches"],
        "verify_quantized": ["path", "reference", "batches"],
        "weights": ["path", "kind"],
        "replace_weights": ["path", "weights", "out"],
    }
    for name, wanted in positional.items():
        parameters = inspect.signature(getattr(export, name)).parameters.values()
        assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == wanted, name


def test_signatures_hold_no_address_and_no_annotation() -> None:
    def sample(a: int, /, b: float = 1.0, *, c: object = describe) -> None: ...

    assert describe(sample) == "function (a, /, b=1.0, *, c=describe)"
    assert " at 0x" not in GOLDEN.read_text(encoding="utf-8")


def test_no_public_name_of_a_package_is_also_the_name_of_one_of_its_modules() -> None:
    """Importing the module would replace the function, or not, depending on what was imported first."""
    packages = [importlib.import_module(root) for root in ROOTS]
    for root in list(packages):
        found = pkgutil.walk_packages(root.__path__, f"{root.__name__}.")
        packages += [importlib.import_module(info.name) for info in found if info.ispkg]
    shared = []
    for package in packages:
        modules = {info.name for info in pkgutil.iter_modules(package.__path__)}
        public = {*getattr(package, "__all__", ()), *(name for name in vars(package) if not name.startswith("_"))}
        for name in sorted(modules & public):
            if not isinstance(getattr(package, name), ModuleType):
                shared.append(f"{package.__name__}.{name}")
    assert not shared, f"rename these modules: {shared}"
