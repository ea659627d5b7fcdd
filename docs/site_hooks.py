"""Hooks of mkdocs: the pages that are made when the site is built, the catalogue's and the API reference's."""

import ast
import logging
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parents[1]))  # the sources beside this file, where this is a checkout

import export
from export.app.reference import site_pages

log = logging.getLogger("mkdocs.site_hooks")
"""Warnings of loggers below `mkdocs` fail a strict build."""

ROOT = Path(export.__file__).parents[1]
"""Where the packages lie."""

API: dict[str, str] = {
    "pure": "Blocks, containers, the most used layers and skips, trees, transforms.",
    "pure.layers": "Single operations, with PyTorch's names and initial values.",
    "pure.compose": "How blocks become a larger block.",
    "pure.skips": "What is carried past a branch, and how the two meet again.",
    "pure.initializers": "Initial values, frozen and comparable.",
    "pure.optim": "Optimisers as pairs of pure functions.",
    "pure.tree": "Parameter trees: dotted names, stacking, freezing.",
    "pure.tags": "Intermediate values of a pure function.",
    "pure.nets": "Whole networks by name.",
    "pure.interop": "`torch.nn.Module`s and the checkpoints of other libraries.",
    "pure.pruning": "Weights, channels and blocks that can go.",
    "pure.spmd": "Functions over several processes.",
    "pure.flow": "How gradients flow through a function.",
    "pure.flow.theory": "Closed forms at random initialisation.",
    "pure.flow.plot": "Pictures of results.",
    "pure.flow.kernel.infinite_width": "Tangent kernels of infinitely wide networks.",
    "pure.errors": "The errors of `pure`.",
    "export": "From a function to a judged file.",
    "export.errors": "The errors of `export`.",
    "pure_export_pytest": "The pytest plugin.",
}
"""The public modules, each a page of the reference, with what it is for."""

RANKS = {
    **dict.fromkeys(("ZOO.md", "CHECKPOINTS.md", "CUDA_PLACEMENT.md", "SPMD_PARITY.md", "FILES.md"), 0.01),
    "ARCHITECTURE.md": 0.1,
    "catalogue/": 0.1,
    "api/": 0.3,
    "answers.md": 2.0,
}
"""How the search ranks pages by the beginning of their path, where it is not 1.

Almost any word stands in a long table, and most in some row of the catalogue.
"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    assert config.nav is not None
    config.nav.insert(5, {"Catalogue": site_pages.navigation()})
    config.nav.insert(6, {"API": ["api/index.md", *(f"api/{module}.md" for module in API)]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the style sheet of the diagrams."""
    made = {**site_pages.pages(), "assets/drawings.css": site_pages.style_sheet(), "api/index.md": api_index()}
    made |= {f"api/{module}.md": api_page(module) for module in API}
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> None:
    """Let the search show pages that explain before those that list."""
    for start, rank in RANKS.items():
        if page.file.src_uri.startswith(start):
            page.meta["search"] = {"boost": rank}


def on_env(env: Any, config: MkDocsConfig, files: Files) -> None:
    """Warn of each public name without a docstring, which fails a strict build."""
    handler = config.plugins["mkdocstrings"].get_handler("python")  # type: ignore[attr-defined]
    options = handler.get_options({})
    for module in API:
        for name in shown_names(module):
            for missing in undocumented(handler.collect(f"{module}.{name}", options)):
                log.warning("%s has no docstring: %s:%s", missing.path, missing.filepath, missing.lineno)


def undocumented(found: griffe.Object | griffe.Alias) -> list[griffe.Object | griffe.Alias]:
    """Return what has no docstring, of a public name and the public classes and functions in it.

    A method that overrides a documented one needs none, nor do the fields of a class, which its own docstring lists.
    """
    missing = [] if found.has_docstring else [found]
    if found.is_class:
        above = [base for base in found.mro() if base.path != found.path]
        for name, member in found.members.items():
            shown = not name.startswith("_") and (member.is_function or member.is_class)
            inherited = any(name in base.members and base.members[name].has_docstring for base in above)
            if shown and not member.has_docstring and not inherited:
                missing.append(member)
    return missing


def api_index() -> str:
    """Return the page that lists the modules."""
    rows = "\n".join(f"| [{module}]({module}.md) | {what} |" for module, what in API.items())
    return (
        "# API reference\n\nEvery public name, by the module that you import it from. "
        "[Every file](../FILES.md) lists the rest of the sources.\n\n"
        f"| module | what is in it |\n|---|---|\n{rows}\n"
    )


def api_page(module: str) -> str:
    """Return the page of a module: its docstring, then every public name that is no module."""
    shown = "\n\n".join(f"::: {module}.{name}" for name in shown_names(module))
    return f"# {module}\n\n{API[module]}\n\n{shown}\n"


def shown_names(module: str) -> list[str]:
    """Return the public names of a module that are no modules."""
    return sorted(name for name in public_names(file_of(module)) if file_of(f"{module}.{name}") is None)


def file_of(module: str) -> Path | None:
    """Return the file of a module of this project, or None if that is none."""
    stem = ROOT.joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def public_names(source: Path | None) -> list[str]:
    """Return `__all__` of a file, read without running it; of `*NETWORKS` in it, what it imports by stars."""
    assert source is not None
    found: list[str] = []
    body = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(body):
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "__all__" for target in node.targets):
            assert isinstance(node.value, (ast.List, ast.Tuple))
            found += [ast.literal_eval(item) for item in node.value.elts if not isinstance(item, ast.Starred)]
            if any(isinstance(item, ast.Starred) for item in node.value.elts):
                stars = [n for n in body.body if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
                found += [name for star in stars for name in public_names(file_of(str(star.module)))]
    return found
