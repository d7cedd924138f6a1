"""make bench-quality DATA=folder: recall of the committed recipe on a real log, beside every baseline. Several seeds.

    python -m benchmarks.quality --set data=DATA --seeds 3

The samples are built once; each seed, of initial weights, order and dropout, is trained and evaluated as
`make kuairand` does. The tables go to the terminal, to benchmarks/results/quality.json and, as Markdown, between two
markers in README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.ablation import mean_and_deviation
from benchmarks.jobs import PROJECT, run_job
from benchmarks.report import markdown_table, replace_table, report
from dssm.config import load_settings
from dssm.evaluation import MODEL, VIEWS
from dssm.paths import RunPaths

CONFIG = "conf/kuairand.yaml"
README = PROJECT / "README.md"
METRICS = ("recall@10", "recall@50", "recall@100", "ndcg@100")
JUDGED = ("recall@50", "recall@100")
Evaluation = Mapping[str, Mapping[str, Mapping[str, float]]]  # by view, ranking and metric


def rankings(found: Sequence[Evaluation], view: str) -> dict[str, dict[str, list[float]]]:
    """Returns the metrics of each ranking, by seed. A baseline, which has no seed, has its one figure."""
    return {
        name: {
            metric: [one[view][name][metric] for one in (found if name == MODEL else found[:1])] for metric in METRICS
        }
        for name in found[0][view]
    }


def rows_of(found: Sequence[Evaluation], view: str) -> list[list[str]]:
    """Returns a row a ranking; what is best of a metric stands in bold."""
    ranked = rankings(found, view)
    best = {metric: max(ranked, key=lambda name: np.mean(ranked[name][metric])) for metric in METRICS}
    return [
        [name, *(_marked(mean_and_deviation(of[metric]), name == best[metric]) for metric in METRICS)]
        for name, of in ranked.items()
    ]


def ratios_of(found: Sequence[Evaluation]) -> dict[str, float]:
    """Returns the model's mean by the best baseline's figure, whichever that is of a metric."""
    ratios = {}
    for view in VIEWS:
        ranked = rankings(found, view)
        for metric in JUDGED:
            best = max(of[metric][0] for name, of in ranked.items() if name != MODEL)
            ratios[f"{view} {metric}"] = float(np.mean(ranked[MODEL][metric])) / best
    return ratios


def markdown(found: Sequence[Evaluation]) -> str:
    """Returns both tables for README.md."""
    rules = ["---", *["---:"] * len(METRICS)]
    return "\n\n".join(markdown_table([title, *METRICS], rows_of(found, view), rules) for view, title in VIEWS.items())


def show(found: Sequence[Evaluation], seeds: Sequence[int], keep: bool) -> None:
    """Prints the tables. Args: keep: whether they go into README.md and results/ as well."""
    rows = [[title, *row] for view, title in VIEWS.items() for row in rows_of(found, view)]
    notes = [f"model: mean ± deviation of the seeds {', '.join(map(str, seeds))}; ratios: by the best baseline's."]
    figures = {"seeds": list(seeds), "evaluations": [{view: one[view] for view in VIEWS} for one in found]}
    report(
        "quality", "The recipe and the baselines", ["", "ranking", *METRICS], rows, ratios_of(found),
        notes=notes, figures=figures, keep=keep,
    )  # fmt: skip
    if keep:
        replace_table(README, "quality", markdown(found))


def evaluated(config: str, overrides: Sequence[str], seed: int) -> Evaluation:
    """Trains and evaluates one seed on the run's samples."""
    settings = load_settings(config, overrides)
    for job in ("train", "evaluate"):
        run_job(job, config, [*overrides, f"seed={seed}"])
    found: Evaluation = json.loads(Path(RunPaths(settings.run_folder).evaluation).read_text(encoding="utf-8"))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="goes over the recipe")
    parser.add_argument("--seeds", type=int, default=3, help="trainings (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="put the tables into README.md and results/")
    given = parser.parse_args(argv)
    overrides = [*given.set, "name=kuairand-quality"]
    first = load_settings(CONFIG, overrides).seed
    run_job("build_samples", CONFIG, overrides)
    found, seeds = [], list(range(first, first + given.seeds))
    for number, seed in enumerate(seeds, start=1):
        found.append(evaluated(CONFIG, overrides, seed))
        recalls = [f"{view} {metric} {found[-1][view][MODEL][metric]:.4f}" for view in VIEWS for metric in JUDGED]
        print(f"{number}/{len(seeds)} seed {seed}: {', '.join(recalls)}", flush=True)
    show(found, seeds, given.keep)


def _marked(figure: str, is_best: bool) -> str:
    return f"**{figure}**" if is_best else figure


if __name__ == "__main__":
    main()
