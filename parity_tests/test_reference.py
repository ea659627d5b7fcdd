"""The reference page: every row, whole and escaped, drawn from what the blocks are, and the kept page is up to date."""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from export.app import command_line, printing
from export.app.reference import catalogue_page, checked, site_pages
from export.app.reference.checked import findings
from export.app.reference.drawing import drawn, size_of
from export.app.reference.facts import facts, listed, shape_text
from export.app.reference.flow import flow_of
from export.app.reference.snippet import snippet
from export.app.reference.structure import Box, Column, Fork, Frame, Gate, Skip, Wire, drawing_of, sizes
from pure import (
    Activation,
    Block,
    Conv2d,
    DenseSkip,
    DropPath,
    Dynamic,
    Function,
    Highway,
    Linear,
    MixedPrecision,
    Pad,
    Parallel,
    Rename,
    Repeat,
    Residual,
    Sequential,
    nets,
)
from pure.catalogue import CASES, FAMILIES, Case
from pure.composite import Composite

VOID = {"meta", "input", "path", "rect", "circle"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and gathers identifiers, addresses and links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._read(dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._read(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def _read(self, given: dict[str, str | None]) -> None:
        self.ids += [value for key, value in given.items() if key == "id" and value]
        self.links += [value for key, value in given.items() if key == "href" and value]
        self.fetched += [key for key in given if key in ("src", "srcset", "data", "xlink:href", "style")]


@pytest.fixture(scope="module")
def html() -> str:
    return catalogue_page.render()


@pytest.fixture(scope="module")
def parsed(html: str) -> Page:
    return Page(html)


def test_every_row_and_family_has_a_page_in_the_site() -> None:
    rows = [case for case in CASES if case.family in ("gated", "dynamic", "composition")]
    pages, listed = site_pages.pages(rows), site_pages.navigation(rows)
    assert f"# The catalogue: {len(rows)} blocks" in pages["catalogue/index.md"]
    for case in rows:
        page = pages[f"catalogue/{case.family}/{case.name}.md"]
        assert page.startswith(f"# {case.name}\n")
        assert snippet(case) in page
        for said in ("<svg", "<dt>oracle</dt>", "<dt>checked</dt>"):
            assert said in page
        assert f"({case.name}.md)" in pages[f"catalogue/{case.family}/index.md"]
    assert set(re.findall(r"catalogue/[\w./-]+\.md", str(listed))) == set(pages)


def test_the_diagrams_of_the_site_have_colours_in_light_and_dark() -> None:
    css = site_pages.style_sheet()
    used, defined = set(re.findall(r"var\((--[\w-]+)\)", css)), re.findall(r"(--[\w-]+):", css)
    assert all(defined.count(name) == 2 for name in used), used


def test_the_page_is_whole(parsed: Page) -> None:
    assert parsed.open == []
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert parsed.tags.count("article") == len(CASES)
    assert parsed.tags.count("h1") == 1


def test_nothing_is_fetched(html: str, parsed: Page) -> None:
    assert parsed.fetched == []
    assert "link" not in parsed.tags
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", html)
    assert all(link.startswith(("#", "https://arxiv.org/abs/")) for link in parsed.links)


def test_the_contents_count_and_reach_every_row(html: str, parsed: Page) -> None:
    for family in FAMILIES:
        rows = [case for case in CASES if case.family == family]
        if rows:
            assert f'href="#family-{family}">{family}</a> <span class="count">{len(rows)}</span>' in html
    inside = {link[1:] for link in parsed.links if link.startswith("#")}
    assert inside == set(parsed.ids) - {"search", "found"}
    assert {case.name for case in CASES} <= inside


def test_sources_link_to_the_papers_they_name() -> None:
    assert catalogue_page.linked("section 3, 1512.03385 and 1608.06993.").count("<a ") == 2
    assert 'href="https://arxiv.org/abs/1512.03385">1512.03385</a>' in catalogue_page.linked(
        "He et al. 2015 (1512.03385)"
    )
    assert catalogue_page.linked("torch.nn.Linear <x>") == "torch.nn.Linear &lt;x&gt;"


def test_everything_is_escaped() -> None:
    def make() -> Block:
        return Sequential(**{"<b>": Linear(2, 2), "act": Activation("relu")})

    row = Case("<i>&", "layer", make, (1, 2), "a < b & c", "<script>1</script>", init="<u>", oracle="<s>")
    measured = {"float32": {"status": "<em>", "reason": "<q>"}}
    html = catalogue_page.render([row], {"rows": {"<i>&": measured}, "environment": "<p>"})
    parsed = Page(html)
    assert parsed.open == []
    assert not {"b", "i", "u", "s", "em", "q"} & set(parsed.tags)
    assert parsed.tags.count("script") == 1
    assert "a &lt; b &amp; c" in html


def test_the_page_is_deterministic(html: str) -> None:
    rows = [case for case in CASES if case.family in ("gated", "dynamic", "composition")]
    assert catalogue_page.render(rows) == catalogue_page.render(rows)
    assert not re.search(r"0x[0-9a-f]{6,}", html)


def test_what_was_checked_is_shown_if_it_is_of_this_row() -> None:
    row = next(case for case in CASES if case.name == "linear")
    found: dict[str, Any] = {"oracle": "torch.nn.Linear", "difference": 3e-16, "fingerprint": checked.fingerprint(row)}
    found["float32"] = {"status": "pass", "ratio": 0.25}
    found["float16"] = {"status": "unsupported", "reason": "no float16 Gemm"}
    html = catalogue_page.render([row], {"rows": {"linear": found}, "environment": {"torch": "2.15"}})
    for said in ("3.0e-16", "its largest error is 0.25 rounding scales", "unsupported</span> no float16 Gemm", "2.15"):
        assert said in html
    for record in ({"rows": {}}, {"rows": {"linear": {**found, "fingerprint": "of another block"}}}):
        assert "oracle and files: not recorded" in catalogue_page.render([row], record)
    assert findings({"difference": 0.0})[0][2] == "none"
    assert findings({"difference": 0.0})[1][2] == "not recorded"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_snippet_runs_and_makes_the_row(case: Case) -> None:
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        exec(snippet(case), names)
    assert names["block"] == case.make()
    assert shape_text(names["y"]) == facts(case).y
    assert max(map(len, snippet(case).splitlines())) <= 120


def test_a_block_that_is_no_expression_is_taken_from_the_catalogue() -> None:
    row = Case("odd", "layer", lambda: Function(torch.tanh), (1, 2), "tanh x", "none")
    assert 'block = catalogue.case("odd").make()' in snippet(row)
    assert "nets.simple_block(6, 8, 3)" in snippet(next(case for case in CASES if case.name == "simple_block"))
    long = Case("long", "layer", lambda: Sequential(*[Linear(6, 6)] * 4), (1, 6), "x", "none")
    assert snippet(long).count("Linear(in_features=6, out_features=6),\n") == 4
    ast.parse(snippet(long))


def test_facts_are_what_the_block_does() -> None:
    row = next(case for case in CASES if case.name == "dynamic_net")
    found = facts(row)
    assert (found.x, found.y, found.parameters) == ("(5, 6)", "(5, 3)", 155)
    assert [entry.name for entry in found.extras] == ["control"]
    assert {(entry.name, entry.kind) for entry in found.tags} == {("middle.gate", "gate"), ("middle.stream", "stream")}
    norm = facts(next(case for case in CASES if case.name == "batch_norm"))
    assert [entry.name for entry in norm.state] == ["running_mean", "running_var", "num_batches_tracked"]
    assert facts(next(case for case in CASES if case.name == "drop_path")).noise


def test_running_numbers_are_put_together() -> None:
    def names(*given: str) -> list[str]:
        return [entry.name for entry in listed((name, "()", "") for name in given)]

    assert names("a.0.w", "a.1.w", "a.2.w") == ["a.0…2.w"]
    assert names("a.0.w", "a.2.w", "a.4.w") == ["a.0,2…4.w"]
    assert names("a.0.w", "a.3.w", "a.4.w") == ["a.0.w", "a.3.w", "a.4.w"]
    assert names("fc1.w", "fc2.w") == ["fc1.w", "fc2.w"]
    assert names("0.1.w", "1.1.w", "1.2.w") == ["0.1.w", "1.1.w", "1.2.w"]


# Drawings


@dataclass(frozen=True, repr=False)
class Meet(Composite):
    """A block that the drawing does not know: x + down(tanh(up x) · gate x)."""

    down: Block
    up: Block
    gate: Block

    def combine(self, run: Any, params: Any, x: Any, extras: Any) -> Any:
        return x + run("down", torch.tanh(run("up", x)) * run("gate", x))


def meeting() -> Block:
    return Meet(Linear(3, 3), Linear(3, 3), Linear(3, 3))


def box(name: str = "", features: str = "3 → 3") -> Box:
    return Box(f"{name}: Linear" if name else "Linear", features, "weights")


LINEAR = Linear(3, 3)
DRAWINGS: list[tuple[Callable[[], Block], Any]] = [
    (lambda: Residual(LINEAR), Skip(box(), Wire(), "+")),
    (lambda: Residual(LINEAR, scale=0.5, activation="relu"), None),
    (lambda: Residual(Conv2d(4, 6, 3), Pad()), Skip(Box("Conv2d", "4 → 6, 3×3", "weights"), Box("Pad"), "+")),
    (lambda: DenseSkip(LINEAR), Skip(box(), Wire(), "concat")),
    (lambda: Dynamic(LINEAR), Skip(box(), Wire(), "c > 0.5 ?")),
    (lambda: Highway(LINEAR, LINEAR), Gate(box(), box("gate"))),
    (lambda: Parallel(LINEAR, LINEAR, join="product"), Fork((box(), box()), "×")),
    (lambda: Repeat(Residual(LINEAR), 3), Frame("× 3, stacked", Skip(box(), Wire(), "+"))),
    (lambda: MixedPrecision(Residual(LINEAR), torch.bfloat16), Frame("bfloat16", Skip(box(), Wire(), "+"))),
    (lambda: Rename(Residual(LINEAR), {"branch": "fc"}), Skip(box(), Wire(), "+")),
    (lambda: Sequential(fc=LINEAR, act=Activation("relu")), Column((box("fc"), Box("relu")))),
    (lambda: Sequential(*[Residual(LINEAR)] * 4), Frame("× 4", Skip(box(), Wire(), "+"))),
]


@pytest.mark.parametrize(("make", "expected"), DRAWINGS)
def test_a_block_is_drawn_as_what_it_is(make: Callable[[], Block], expected: Any) -> None:
    found = drawing_of(make())
    if expected is None:
        expected = Column((Skip(Column((box(), Box("× 0.5"))), Wire(), "+"), Box("relu")))
    assert found == expected


def test_children_of_an_unknown_block_are_drawn_as_they_feed_each_other() -> None:
    row = Case("meet", "layer", meeting, (2, 3), "x + down(tanh(up x) · gate x)", "none")
    flow = flow_of(row)
    assert flow is not None
    assert flow.rows((), ["down", "up", "gate"]) == [["up", "gate"], ["down"]]
    assert flow.bypassed(())
    fed = Column((Fork((box("up"), box("gate")), ""), box("down")))
    assert drawing_of(meeting(), flow) == Skip(fed, Wire(), "Meet")
    side = Column((Fork((box("down"), box("up"), box("gate")), ""), Box("Meet", "", "node")))
    assert drawing_of(meeting()) == side


def test_rates_do_not_keep_blocks_from_being_drawn_once() -> None:
    blocks = [Residual(Sequential(fc=LINEAR, drop=DropPath(rate))) for rate in (0.0, 0.1, 0.2)]
    assert isinstance(found := drawing_of(Sequential(*blocks)), Frame)
    assert found.title == "× 3"


def test_large_networks_are_drawn_less_deep() -> None:
    wide = Sequential(**{f"part{i}": nets.residual_mlp(3 + i, 4, 3) for i in range(30)})
    found = drawing_of(wide)
    assert isinstance(found, Column)
    assert len(found.parts) <= 14
    assert any(isinstance(entry, Box) and "more" in entry.title for entry in found.parts)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_drawing_stays_inside_its_frame(case: Case) -> None:
    svg = drawn(drawing_of(case.make()), case.name)
    width, height = (float(size) for size in re.findall(r'viewBox="0 0 (\S+) (\S+)"', svg)[0])
    for x, y, w, h in re.findall(r'<rect [^>]*x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"', svg):
        assert float(x) >= 0
        assert float(y) >= 0
        assert float(x) + float(w) <= width
        assert float(y) + float(h) <= height
    for x, y in re.findall(r'c[xy]="(\S+)" c[xy]="(\S+)"', svg):
        assert 0 <= float(x) <= width
        assert 0 <= float(y) <= height


def test_boxes_of_a_column_do_not_overlap() -> None:
    parts = (Box("a"), Skip(Box("b", "c"), Box("d"), "+"), Fork((Box("e"), Wire(), Box("f" * 30)), "concat"))
    size = size_of(Column(parts))
    assert size.height > sum(size_of(entry).height for entry in parts)
    assert size.width >= max(size_of(entry).width for entry in parts)
    assert sizes(Conv2d(4, 4, (3, 1), stride=(2, 1), groups=4)) == "4 → 4, 3×1, /2×1, depthwise"


# The command


def test_the_command_writes_the_page(html: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_page, "render", partial(str, html))
    path = tmp_path / "page.html"
    result = CliRunner().invoke(command_line.app, ["reference", "--out", str(path)])
    assert result.exit_code == 0, result.output
    assert path.read_text(encoding="utf-8") == html
    assert result.stdout.startswith(f"{len(CASES)} rows")
    refused = CliRunner().invoke(command_line.app, ["reference", "--out", str(tmp_path / "no" / "page.html")])
    assert refused.exit_code == 2
    assert "does not exist" in refused.stderr


def test_a_block_meets_in_front_of_the_child_that_ends_it() -> None:
    for name, before, last in (("glu", "up_gate: Linear", "down: Linear"), ("attention", "qkv: Linear", "out: Linear")):
        (case,) = (case for case in CASES if case.name == name)
        first, node, end = drawing_of(case.make(), flow_of(case)).parts
        assert (first.title, node.kind, end.title) == (before, "node", last)


def test_the_list_shows_one_family() -> None:
    shown = CliRunner().invoke(command_line.app, ["list", "--family", "gated", "--family", "dense"]).stdout
    names = [line.partition(" ")[0] for line in shown.splitlines()]
    for case in CASES:
        assert (case.name in names) == (case.family in ("gated", "dense"))
    refused = CliRunner().invoke(command_line.app, ["list", "--family", "gate"])
    assert refused.exit_code == 2
    assert "'gated'" in refused.stderr


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_list_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    console = Console(markup=False, highlight=False, width=width)
    monkeypatch.setattr("export.app.console.stdout", lambda: console)
    monkeypatch.setattr(printing, "stdout", lambda: console)
    row = {"name": "n" * 30, "family": "transformer", "formula": "x + f(x)", "parameters": 1234567}
    row["extras"] = ["control"]
    measured = {"difference": 1e-16, "float32": {"status": "pass", "ratio": 0.5}, "oracle": "torch.nn." + "M" * 30}
    printing.catalogue([{**row, "checked": measured}, row])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1].split()[0] == "n" * 30, "a name is not folded"
