"""The page's style sheet: one column, light or dark as the reader has it, readable on a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f6f7f9; --ink: #1c2430; --faint: #5c6776; --line: #d5dae1;
  --train: #2f6fd0; --test: #c8691c; --bar: #d7e5fa; --good: #1e7a46; --warn: #9a6200; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181f; --card: #1c222b; --ink: #e4e8ee; --faint: #9aa5b4; --line: #353e4b;
    --train: #7fb0ff; --test: #f0a05a; --bar: #263c5e; --good: #6fd196; --warn: #e8b84a; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: .5rem 0 0; font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.2rem; scroll-margin-top: 3.5rem; }
h3 { margin: 1.25rem 0 .25rem; font-size: 1rem; }
p, ul { margin: .4rem 0; max-width: 46rem; }
.faint, p.note { color: var(--faint); font-size: .9rem; }
nav { position: sticky; top: 0; z-index: 2; display: flex; gap: 1rem; margin: 1rem -1rem 0; padding: .6rem 1rem;
  overflow-x: auto; white-space: nowrap; background: var(--page); border-bottom: 1px solid var(--line); }
a { color: var(--train); text-decoration: none; }
a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tile { padding: .6rem .8rem; background: var(--card); border-radius: .5rem; }
.tile b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.tile span { color: var(--faint); font-size: .85rem; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: .25rem; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
thead th { color: var(--faint); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--page); min-width: 8rem; max-width: 20rem;
  overflow-wrap: break-word; }
td.number, th.number { text-align: right; }
td.bar { text-align: right; min-width: 5.5rem;
  background: linear-gradient(to right, var(--bar) var(--share), transparent 0) no-repeat 0 50% / 100% 75%; }
td.words { white-space: normal; min-width: 14rem; max-width: 28rem; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem 2rem; }
figure { margin: .5rem 0; }
figcaption { font-weight: 600; font-size: .9rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
svg.lengths { width: 7rem; height: 1.6rem; }
svg.lengths rect { fill: var(--train); }
tr.test svg.lengths rect { fill: var(--test); }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin: 0 .3em 0 .6em; }
.train .dot { background: var(--train); } .test .dot { background: var(--test); }
.good { color: var(--good); } .warn { color: var(--warn); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
code, pre { font: .85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { overflow-x: auto; padding: .8rem; background: var(--card); border-radius: .5rem; }
li code { overflow-wrap: anywhere; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
"""
