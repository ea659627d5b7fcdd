"""Writes down the public interface: `python -m parity_tests.public_api` renews the golden file.

Names come from `__all__` of `pure`, of its subpackages, of every module that one of them lists, and of `export`. Of a
signature the names, kinds and defaults are kept; annotations are left to the type checker, as their printed form
changes between Python versions.
"""

import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path
from types import ModuleType

GOLDEN = Path(__file__).parent / "golden" / "public_api.json"
COMMAND = "python -m parity_tests.public_api"
ROOTS = ("pure", "export")


def public_modules() -> dict[str, ModuleType]:
    """The two packages, the subpackages of `pure`, and each module that their `__all__` lists."""
    names = list(ROOTS)
    for info in pkgutil.walk_packages(importlib.import_module("pure").__path__, "pure."):
        if info.ispkg and hasattr(importlib.import_module(info.name), "__all__"):  # others are folders of internals
            names.append(info.name)
    modules: dict[str, ModuleType] = {}
    while names:
        name = names.pop(0)
        if name in modules:
            continue
        modules[name] = module = importlib.import_module(name)
        names += [value.__name__ for value in public_values(module).values() if is_ours(value)]
    return dict(sorted(modules.items()))


def is_ours(value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__.partition(".")[0] in ROOTS


def public_values(module: ModuleType) -> dict[str, object]:
    """What `__all__` names, so that a name which is listed but missing raises AttributeError here."""
    return {name: getattr(module, name) for name in sorted(module.__all__)}


def public_methods(cls: type) -> dict[str, object]:
    """Methods and properties written in the project's own classes, without the private ones."""
    found: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] in ROOTS:
            found.update((name, value) for name, value in vars(base).items() if not name.startswith("_"))
    methods = (property, staticmethod, classmethod)
    return {n: v for n, v in sorted(found.items()) if inspect.isfunction(v) or isinstance(v, methods)}


def signature(value: object) -> str:
    """Names, kinds and defaults of the parameters, on one line and free of addresses."""
    full = inspect.signature(value)  # type: ignore[arg-type]
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in full.parameters.values()]
    text = str(full.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return re.sub(r"<(?:built-in )?(?:function|method|class) '?([\w.<>]+)'?[^>]*>", r"\1", text)


def describe(value: object) -> object:
    """One line for a function or a constant, and a table for a class."""
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, type):
        table: dict[str, str] = {"class": ", ".join(base.__name__ for base in value.__bases__)}
        if not issubclass(value, BaseException):
            table["()"] = signature(value)
        for name, method in public_methods(value).items():
            inner = getattr(method, "__func__", method)
            table[name] = "property" if isinstance(method, property) else signature(inner)
        return table
    if callable(value):
        return f"function {signature(value)}"
    return f"constant of type {type(value).__name__}"


def public_api() -> dict[str, dict[str, object]]:
    """The whole public interface as plain data."""
    return {
        name: {listed: describe(value) for listed, value in public_values(module).items()}
        for name, module in public_modules().items()
    }


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(public_api(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
