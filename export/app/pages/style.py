"""The pages' style sheets and script: one column on a phone, light and dark, nothing fetched."""

from __future__ import annotations

__all__ = ["CATALOGUE", "CHART", "COLOURS", "DRAWING", "DRAWING_COLOURS", "REPORT", "SCRIPT", "SHARED"]

COLOURS = """
:root {
  color-scheme: light dark;
  --page: #f9f9f7; --card: #ffffff; --ink: #0b0b0b; --soft: #52514e; --rule: #e1e0d9; --axis: #a3a198;
  --plain: #c2410c; --residual: #2a78d6; --gated: #128a60; --dense: #4a3aa7; --reference: #84827a;
  --good: #006300; --good-bg: #e3f3e3; --bad: #a11d1d; --bad-bg: #fbe6e6; --warn: #7a4b00; --warn-bg: #fdf0d5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d0d0d; --card: #1a1a19; --ink: #ffffff; --soft: #c3c2b7; --rule: #33332f; --axis: #77756e;
    --plain: #f07b45; --residual: #4f9bf0; --gated: #2fbd87; --dense: #a79df0; --reference: #9a988f;
    --good: #5fd35f; --good-bg: #12301a; --bad: #ff8f8f; --bad-bg: #3a1717; --warn: #f3c46b; --warn-bg: #37290d;
  }
}
"""
"""Light and dark."""

SHARED = (
    COLOURS
    + """* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: clamp(1.6rem, 4.5vw, 2.3rem); line-height: 1.2; margin: 0 0 8px; text-wrap: balance; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 52px 0 8px; }
h3 { font-size: 1rem; margin: 0 0 4px; }
p { margin: 8px 0; max-width: 74ch; }
.soft, figcaption, .note { color: var(--soft); }
.note { font-size: .9rem; }
.badge { display: inline-block; padding: 1px 9px; border-radius: 9px; font-size: .85rem; font-weight: 600; }
.badge { white-space: nowrap; }
.pass { color: var(--good); background: var(--good-bg); }
.fail { color: var(--bad); background: var(--bad-bg); }
.ambiguous, .skipped { color: var(--warn); background: var(--warn-bg); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px; }
.card { margin: 16px 0 0; min-width: 0; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
.key { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 10px 0 0; padding: 0; }
.key { list-style: none; font-size: .9rem; }
.key li { display: flex; gap: 7px; align-items: center; } .key svg { width: auto; flex: none; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { text-align: left; color: var(--soft); font-size: .9rem; padding-bottom: 6px; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { white-space: nowrap; } tbody th { color: var(--ink); white-space: normal; min-width: 7.5em; }
tbody tr:last-child > * { border-bottom: 0; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { font: 12px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 12px 0; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  main { padding: 20px 14px 48px; } .card { padding: 12px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
}
"""
)
"""What every page begins with."""

CHART = """
.tick { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.label { font-size: 13px; fill: var(--soft); }
.name { font-size: 13px; fill: var(--ink); }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--axis); stroke-width: 1; }
.leader { stroke: var(--axis); stroke-width: 1; fill: none; }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.band { stroke: none; opacity: .13; }
.dot { stroke: var(--card); stroke-width: 1.5; }
.s-plain { --c: var(--plain); } .s-residual { --c: var(--residual); } .s-gated { --c: var(--gated); }
.s-dense { --c: var(--dense); } .s-plain_default { --c: var(--reference); }
.line { stroke: var(--c); } .band, .dot { fill: var(--c); }
.line.s-gated { stroke-dasharray: 9 4; } .line.s-dense { stroke-dasharray: 2 5; }
.line.s-plain_default { stroke-dasharray: 5 5; } .line.trained { stroke-dasharray: 7 5; }
.line.start { stroke-dasharray: none; }
"""
"""Line charts."""

REPORT = (
    """
.found { margin: 20px 0 0; padding: 8px 20px; }
.found ul { padding-left: 1.1em; margin: 8px 0; }
.found li { margin: 8px 0; max-width: 88ch; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px; }
.grid4 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); gap: 16px; }
.grid2, .grid4 { margin-top: 16px; } .grid2 > .card, .grid4 > .card { margin: 0; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; margin-top: 6px; }
img { display: block; width: 100%; height: auto; }
"""
    + CHART
    + """
.heat img { image-rendering: pixelated; height: 132px; border-radius: 3px; }
.heat .pair { display: grid; gap: 6px; }
.ramp { height: 12px; border-radius: 3px; }
.scale { display: flex; justify-content: space-between; font-size: .85rem; color: var(--soft); }
.digits { max-width: 520px; image-rendering: pixelated; border-radius: 4px; }
.shots { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
.shots img { border-radius: 4px; }
.shots span { font-size: .85rem; color: var(--soft); }
@media (max-width: 560px) { .tick, .label, .name { font-size: 15.5px; } }
"""
)
"""Charts, heat maps and photographs."""

DRAWING_COLOURS = {
    "light": """
--weights: #dcebfb; --weights-line: #2a6fc0; --plain-box: #f1f0ea; --plain-line: #8a887f; --block: #f6e9cf;
--block-line: #a06a00; --past: #b4430f; --frame: #b9b7ae;
""",
    "dark": """
--weights: #14304f; --weights-line: #6aaef5; --plain-box: #262624; --plain-line: #8f8d85; --block: #3a2d10;
--block-line: #e0a93f; --past: #f28a55; --frame: #55534c;
""",
}
"""The colours of diagrams by scheme."""

DRAWING = """
svg.d { width: auto; max-width: none; height: auto; margin: 0 auto; }
svg.d text { font-size: 12px; fill: var(--ink); text-anchor: middle; }
svg.d text.n { font-size: 11px; fill: var(--soft); } svg.d text.io { font-style: italic; }
svg.d text.ft { text-anchor: start; font-size: 11.5px; fill: var(--soft); font-weight: 600; }
.d .b { stroke-width: 1.2; fill: var(--plain-box); stroke: var(--plain-line); }
.d .weights { fill: var(--weights); stroke: var(--weights-line); }
.d .block { fill: var(--block); stroke: var(--block-line); stroke-dasharray: 5 3; }
.d .node { fill: var(--card); stroke: var(--ink); }
.d .f { fill: none; stroke: var(--frame); stroke-dasharray: 2 3; }
.d .w { fill: none; stroke: var(--ink); stroke-width: 1.3; } .d .h { fill: var(--ink); stroke: none; }
.d .a { fill: none; stroke: var(--past); stroke-width: 2.2; } .d .h.a { fill: var(--past); stroke: none; }
.d .j { fill: var(--card); stroke: var(--ink); stroke-width: 1.4; } .d .s { stroke: var(--ink); stroke-width: 1.6; }
.d .k { fill: var(--ink); }
"""
"""Diagrams of blocks."""

CATALOGUE = (
    f"""
:root {{ {DRAWING_COLOURS["light"]} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DRAWING_COLOURS["dark"]} }} }}
"""
    + """
html { scroll-padding-top: 12px; }
body { overflow-wrap: break-word; }
main { max-width: 1240px; }
.cols { display: grid; grid-template-columns: minmax(0, 1fr); gap: 0 36px; margin-top: 28px; }
a { color: var(--residual); }
nav h2 { margin: 0 0 6px; font-size: 1rem; }
nav ol, nav ul { list-style: none; margin: 0; padding: 0; }
nav ol > li { margin: 0 0 2px; }
nav ul { padding: 2px 0 8px 12px; font-size: .88rem; }
nav ul a { color: var(--soft); text-decoration: none; } nav ul a:hover { text-decoration: underline; }
nav details { margin: 0; } nav summary { color: var(--ink); padding: 3px 0; }
nav .count { color: var(--soft); font-variant-numeric: tabular-nums; }
.search { display: flex; gap: 8px 12px; flex-wrap: wrap; align-items: center; margin: 16px 0 14px; }
.search input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--axis); }
.search input { border-radius: 8px; padding: 7px 12px; width: min(100%, 22em); }
.search output { color: var(--soft); font-size: .9rem; }
h2 .count { font-weight: 400; color: var(--soft); font-size: 1rem; }
.row { display: grid; grid-template-columns: minmax(0, 1fr); gap: 12px 28px; scroll-margin-top: 12px; }
.row h3 { font-size: 1.08rem; font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 0; }
.row h3 a { color: inherit; text-decoration: none; } .row h3 a:hover { text-decoration: underline; }
.formula { font-size: 1.05rem; margin: 4px 0 10px; }
.row dl { grid-template-columns: 8.2em minmax(0, 1fr); }
.row dd { min-width: 0; }
.drawing { min-width: 0; overflow-x: auto; }
.code { background: var(--page); border: 1px solid var(--rule); border-radius: 8px; }
.code { padding: 10px 12px; margin: 12px 0 0; }
.code { overflow: auto; white-space: pre; tab-size: 4; max-height: 30em; }
.leaves { margin: 0; padding: 0; list-style: none; }
.leaves li { padding-left: 1em; text-indent: -1em; }
.leaves .k { color: var(--soft); } .leaves .badge { text-indent: 0; }
.row details { margin: 0; } .row summary { font-size: .92rem; }
"""
    + DRAWING
    + """
[hidden] { display: none !important; }
@media (min-width: 860px) {
  .row { grid-template-columns: minmax(0, 1fr) minmax(180px, auto); }
  .row .drawing { max-width: 440px; }
}
@media (min-width: 1080px) {
  .cols { grid-template-columns: 230px minmax(0, 1fr); }
  nav { position: sticky; font-size: .95rem; top: 12px; max-height: calc(100vh - 24px); overflow-y: auto; }
}
@media (max-width: 560px) { .row dl { grid-template-columns: minmax(0, 1fr); gap: 0; } }
@media print {
  :root { color-scheme: light; --page: #fff; }
  nav, .search { display: none; } .cols { display: block; } main { max-width: none; padding: 0; }
  .card { break-inside: avoid; } svg.d { max-width: 100%; }
  .drawing, .code { overflow: visible; white-space: pre-wrap; max-height: none; }
}
"""
)
"""Contents, search, cards and diagrams."""

SCRIPT = """
const box = document.querySelector('#search'), said = document.querySelector('#found');
const rows = [...document.querySelectorAll('.row')].map(row => [row, row.textContent.toLowerCase()]);
function find() {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const [row, text] of rows) {
    row.hidden = !words.every(word => text.includes(word));
    shown += !row.hidden;
  }
  for (const part of document.querySelectorAll('section[data-family]'))
    part.hidden = !part.querySelector('.row:not([hidden])');
  said.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
}
box.addEventListener('input', find);
document.querySelector('.search').hidden = false;
find();
if (matchMedia('(min-width: 1080px)').matches) document.querySelectorAll('nav details').forEach(one => one.open = true);
addEventListener('beforeprint', () => document.querySelectorAll('main details').forEach(one => one.open = true));
"""
"""The catalogue's search."""
