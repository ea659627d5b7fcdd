"""The page's style sheet: one column on a phone, light and dark, nothing fetched."""

from __future__ import annotations

CSS = """
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
* { box-sizing: border-box; }
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
.found { margin: 20px 0 0; padding: 8px 20px; }
.found ul { padding-left: 1.1em; margin: 8px 0; }
.found li { margin: 8px 0; max-width: 88ch; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px; }
.grid4 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); gap: 16px; }
.grid2, .grid4 { margin-top: 16px; } .grid2 > .card, .grid4 > .card { margin: 0; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; margin-top: 6px; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
img { display: block; width: 100%; height: auto; }
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
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 12px 0 0; padding: 0; list-style: none; }
.legend { font-size: .9rem; }
.legend li { display: flex; align-items: center; gap: 7px; }
.legend svg { width: 30px; height: 10px; flex: none; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { text-align: left; color: var(--soft); font-size: .9rem; padding-bottom: 6px; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { white-space: nowrap; } tbody th { color: var(--ink); white-space: normal; min-width: 7.5em; }
tbody tr:last-child > * { border-bottom: 0; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.heat img { image-rendering: pixelated; height: 132px; border-radius: 3px; }
.heat .pair { display: grid; gap: 6px; }
.ramp { height: 12px; border-radius: 3px; }
.scale { display: flex; justify-content: space-between; font-size: .85rem; color: var(--soft); }
.digits { max-width: 520px; image-rendering: pixelated; border-radius: 4px; }
.shots { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
.shots img { border-radius: 4px; }
.shots span { font-size: .85rem; color: var(--soft); }
pre { font: 12px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 12px 0; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  main { padding: 20px 14px 48px; } .card { padding: 12px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
  .tick, .label, .name { font-size: 15.5px; }
}
"""
