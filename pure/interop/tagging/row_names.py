"""The names of residual sums: those of the submodules that they are the sums of."""

from __future__ import annotations

from pure.interop.tagging.call_graph import Part
from pure.interop.tagging.residual_sums import ResidualSum, SumFinder, bits

__all__ = ["name_rows"]


def _child(part: Part, whole: Part) -> Part | None:
    """Return the call right inside `whole` in which a part ran."""
    inner = None
    for outer in part.upwards():
        if outer is whole:
            return inner
        inner = outer
    return None


def _main_child(finder: SumFinder, found: ResidualSum) -> str:
    """Return the path of the submodule that holds most parameters of a branch; else that of the largest parameter."""
    used: dict[str, set[str]] = {}
    for index in bits(found.between):
        call = finder.calls[index]
        child = _child(call.part, found.part)
        if child is not None:
            used.setdefault(child.path, set()).update(call.params)
    if used:
        return max(used, key=lambda path: sum(finder.sizes.get(name, 0) for name in used[path]))
    params = {name for index in bits(found.between) for name in finder.calls[index].params}
    return max(sorted(params), key=lambda name: finder.sizes.get(name, 0), default="sum")


def name_rows(finder: SumFinder, sums: list[ResidualSum]) -> None:
    """Give each sum's row its name: the innermost submodule around it, or around its branch where there are several.

    The name of a sum inside a branch begins with the name of the row whose branch that is.
    """
    taken: dict[str, int] = {}
    around = {found.at: [outer for outer in sums if outer.between >> found.at & 1] for found in sums}

    def give(found: ResidualSum) -> None:
        if found.row:
            return
        outer = min(around[found.at], key=lambda outer: outer.between.bit_count(), default=None)
        if outer is not None:
            give(outer)  # its call is a later one
        beside = [
            other
            for other in sums
            if other is not found and not found.between >> other.at & 1 and not other.between >> found.at & 1
        ]
        alone = not any(part is found.part for other in beside for part in other.part.upwards())
        main = _main_child(finder, found)
        names = [found.part.path, main] if alone and found.part.path else [main]
        name = names[0]
        if outer is not None:
            inside = [name for name in names if name.startswith(f"{outer.row}.")]
            name = inside[0] if inside else f"{outer.row}.{main.rpartition('.')[2]}"
        found.row = _fresh(name, taken)

    for found in sorted(sums, key=lambda found: (len(around[found.at]), found.at)):
        give(found)


def _fresh(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
