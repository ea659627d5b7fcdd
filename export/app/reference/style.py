"""Style sheet and script of the reference page: one column on a phone, a list beside it on a screen, light and dark."""

from __future__ import annotations

from export.app.report.page.style import CSS as SHARED

CSS = (
    SHARED
    + """
:root {
  --weights: #dcebfb; --weights-line: #2a6fc0; --plain-box: #f1f0ea; --plain-line: #8a887f; --block: #f6e9cf;
  --block-line: #a06a00; --past: #b4430f; --frame: #b9b7ae;
}
@media (prefers-color-scheme: dark) {
  :root {
    --weights: #14304f; --weights-line: #6aaef5; --plain-box: #262624; --plain-line: #8f8d85; --block: #3a2d10;
    --block-line: #e0a93f; --past: #f28a55; --frame: #55534c;
  }
}
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
.key { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 10px 0 0; padding: 0; }
.key { list-style: none; font-size: .9rem; }
.key li { display: flex; gap: 7px; align-items: center; } .key svg { width: 34px; height: 18px; flex: none; }
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
