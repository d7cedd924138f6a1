"""What a run's report adds to the pages' style sheet."""

# Categories of the map: mid tones that stand apart on white and on near-black; the last is for all others.
CATEGORIES = (
    "#3b7dd8", "#e07b28", "#2f9e5b", "#c9413f", "#8a63c9", "#9c6b4a", "#d863ad", "#18a3a8",
    "#b5a020", "#5b6fe0", "#7fae2e", "#e0566f", "#4aa3d8", "#b0679a", "#5f8f7a", "#c98a5a",
)  # fmt: skip

_COLOURS = "".join(
    f"svg.map .c{number} {{ fill: {colour}; }} .keys i.c{number}, .c{number} .dot {{ background: {colour}; }}\n"
    for number, colour in enumerate((*CATEGORIES, "var(--other)"))
)

RUN_STYLE = (
    """
:root { --other: #a3adba; --validation: #8a63c9; }
@media (prefers-color-scheme: dark) { :root { --other: #66717f; --validation: #b79af0; } }
.banner { margin: 1rem 0; padding: .6rem .9rem; max-width: none; border-left: .3rem solid var(--line);
  border-radius: .3rem; background: var(--card); }
.banner.good { border-color: var(--good); } .banner.warn { border-color: var(--warn); }
.banner.bad { border-color: var(--bad); }
.tile small { color: var(--faint); font-size: .8rem; font-weight: 400; white-space: nowrap; }
td.digest { white-space: normal; overflow-wrap: anywhere; }
td small { display: block; color: var(--faint); font-size: .75rem; }
.validation .dot { background: var(--validation); } .other .dot { background: var(--other); }
.plots.three { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19.5rem), 1fr)); }
p.faint > span:first-child .dot { margin-left: 0; }
dl.facts { display: flex; flex-wrap: wrap; gap: .4rem 1.8rem; margin: .6rem 0; }
dl.facts dt { color: var(--faint); font-size: .8rem; } dl.facts dd { margin: 0; font-variant-numeric: tabular-nums; }

.pipeline { margin: 1rem 0; }
svg.narrow { display: none; max-width: 26rem; }
svg.picture text { font-size: 13px; fill: var(--ink); }
svg.picture .box rect { fill: var(--card); stroke: var(--train); stroke-width: 1.2; }
svg.picture .box text { fill: var(--faint); }
svg.picture .box text.name { font-size: 15px; font-weight: 600; fill: var(--ink); }
svg.picture .missing rect { fill: none; stroke: var(--line); stroke-dasharray: 5 4; }
svg.picture .missing text.name { fill: var(--faint); }
svg.picture line { stroke: var(--faint); stroke-width: 1.4; } svg.picture polygon { fill: var(--faint); }
svg.picture text.job { font-weight: 600; } svg.picture text.time { fill: var(--faint); }
@media screen and (max-width: 48rem) { svg.wide { display: none; } svg.narrow { display: block; } }

.map-and-keys { display: grid; grid-template-columns: minmax(0, 3fr) minmax(15rem, 2fr); gap: 1rem 2rem; }
@media screen and (max-width: 48rem) { .map-and-keys { grid-template-columns: minmax(0, 1fr); } }
.map-box { position: relative; align-self: start; }
svg.map { border: 1px solid var(--line); border-radius: .5rem; touch-action: pan-y; }
svg.map circle { fill-opacity: .75; }
svg.map circle.near { stroke: var(--ink); stroke-width: 2; fill-opacity: 1; }
svg.map.chosen g { opacity: .08; } svg.map.chosen g.on { opacity: 1; } svg.map.chosen g.names { opacity: 0; }
svg.map text { font-size: 13px; font-weight: 600; fill: var(--ink); stroke: var(--page); stroke-width: 3px;
  paint-order: stroke; pointer-events: none; }
.tip { position: absolute; z-index: 1; max-width: 18rem; padding: .2rem .5rem; border-radius: .3rem; font-size: .85rem;
  background: var(--ink); color: var(--page); pointer-events: none; overflow-wrap: anywhere; }
.keys { display: flex; flex-wrap: wrap; gap: .3rem; margin: .8rem 0; }
.keys button { padding: .15rem .5rem; border: 1px solid var(--line); border-radius: 1rem; background: none;
  color: inherit; font: inherit; font-size: .85rem; cursor: pointer; overflow-wrap: anywhere; text-align: left; }
.keys button[aria-pressed=true] { border-color: var(--ink); background: var(--card); font-weight: 600; }
.keys i { display: inline-block; width: .7em; height: .7em; margin-right: .4em; border-radius: 50%; }
"""
    + _COLOURS
    + """
.example { margin: 1rem 0; padding: .2rem 1rem .8rem; background: var(--card); border-radius: .5rem; }
.example h3 { margin-top: .8rem; overflow-wrap: anywhere; }
.lists { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: .5rem 1.5rem; }
.lists h4 { margin: .4rem 0 .2rem; font-size: .85rem; color: var(--faint); }
.lists ol { margin: 0; padding-left: 1.6rem; font-size: .9rem; overflow-wrap: anywhere; }
.lists small { color: var(--faint); font-weight: 400; white-space: nowrap; }
.lists li.hit { font-weight: 600; } .lists li::marker { color: var(--faint); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }

@media print {
  :root { color-scheme: light; --page: #fff; --card: #f6f7f9; --ink: #1c2430; --faint: #5c6776; --line: #d5dae1;
    --train: #2f6fd0; --test: #c8691c; --bar: #d7e5fa; --good: #1e7a46; --warn: #9a6200; --bad: #b3261e;
    --other: #a3adba; --validation: #8a63c9; }
  @page { margin: 14mm; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, .tip, details:not(.printed) { display: none; }
  h2, h3, h4, figcaption, summary { break-after: avoid; }
  figure, tr, .tile, .example, .map-box, .pipeline, .banner { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; } td { white-space: normal; } th, td { padding: .15rem .35rem; }
  tbody th { position: static; } td small { font-size: 6.5pt; white-space: nowrap; }
  .plots { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .plots.three, .lists { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .map-and-keys { grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
  .keys button { font-size: 7pt; padding: 0 .3rem; }
  .lists ol { font-size: 8pt; } pre { columns: 2; font-size: 7pt; }
  details.printed::details-content { display: block; height: auto; content-visibility: visible; }
}
"""
)
