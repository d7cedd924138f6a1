"""make bench-recipes: every model of conf/recipes, from the demo's log to the published table.

Each recipe runs the four jobs by ./spark-submit.sh, one after the other, as a user would. Recipes whose samples are
made with the same settings share them. The table goes to the terminal, to benchmarks/results/recipes.json and, as
Markdown, between two markers in README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.jobs import PROJECT, run_job
from benchmarks.report import RESULTS, markdown_table, replace_table, report
from dssm import storage
from dssm.config import Settings, load_settings
from dssm.demo.__main__ import main as write_demo
from dssm.errors import GateError
from dssm.evaluation import BEST_REACHABLE, KEPT, MODEL, POPULARITY
from dssm.model.manifest import read_model_manifest
from dssm.paths import RunPaths
from dssm.samples.earlier import content_of

RECIPES = PROJECT / "conf" / "recipes"
DEMO = "conf/demo.yaml"
README = PROJECT / "README.md"
ROOT = "runs/recipes"
METRIC = "recall@50"

COLUMNS = ("recipe", "loss", "its mean", "AUC", METRIC, "of the best reachable", "training s")
NOTES = (
    "Its mean: over the training rows of the last epoch, of what is minimised: with the scorer's loss, and of several",
    "objectives as they are weighted. Losses of different kinds have different scales.",
    "AUC: of the test day's impressions, by the score of retrieval, and by a scorer's own probability; of",
    "rating_regression: whether more than half was watched. recall: seen items kept. training s: steps and the test",
    "metrics' rows read, without start-up and saving.",
    "Recipes have a learning rate that trains and are tuned no further: the table does not say which is best.",
)


@dataclass(frozen=True)
class Outcome:
    """What one recipe came to; `recalls` by the rows of evaluation.json."""

    name: str
    title: str
    loss: str
    mean_loss: float
    auc: float | None
    scorer_auc: float | None
    recalls: dict[str, float]
    train_s: float
    published: bool

    @property
    def recall(self) -> float:
        return self.recalls[MODEL]

    @property
    def share_of_best(self) -> float:
        return self.recall / self.recalls[BEST_REACHABLE]

    def figures(self) -> list[str]:
        auc = "–" if self.auc is None else f"{self.auc:.3f}"
        if self.scorer_auc is not None:
            auc += f", scorer {self.scorer_auc:.3f}"
        return [
            self.loss,
            f"{self.mean_loss:.3f}",
            auc,
            f"{self.recall:.3f}",
            f"{self.share_of_best:.0%}",
            f"{self.train_s:.0f}",
        ]


def recipes() -> dict[str, Path]:
    """Returns the recipes' files by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def title(recipe: Path) -> str:
    """Returns the first line of a recipe's head comment, below that of the schema, without its full stop."""
    return recipe.read_text(encoding="utf-8").splitlines()[1].removeprefix("#").strip().removesuffix(".")


def loss_names(settings: Settings) -> str:
    """Returns the kinds of all objectives' losses, in their order, and the scorer's."""
    kinds = [(objective.loss or settings.train.loss).kind for objective in settings.model.all_objectives.values()]
    scorer = settings.model.scorer
    return " + ".join(dict.fromkeys([*kinds, *([] if scorer is None else [f"{scorer.kind} scorer"])]))


# Shared samples --------------------------------------------------------------------------------------


def samples_key(settings: Settings) -> str:
    """Returns a digest of all that build_samples reads: equal keys, equal samples.

    An encoder is left out: it says what the towers do with a list that is stored as it is.
    """
    content = json.loads(content_of(settings))
    for feature in content["features"].values():
        feature.pop("encoder", None)
    return storage.digest(settings.date.isoformat(), json.dumps(content, sort_keys=True))


def share_samples(made: Path, run_folder: Path) -> None:
    """Gives a run the samples of another one: the same files under another name, since no job writes to them."""
    target = run_folder / "samples"
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(made / "samples", target, copy_function=os.link)


# Running ---------------------------------------------------------------------------------------------


class Runner:
    """Runs recipes by ./spark-submit.sh; all runs lie under one root.

    Args:
      root: folder of the runs, made absolute.
      overrides: settings that go over every recipe's.
    """

    def __init__(self, root: str, overrides: Sequence[str] = ()) -> None:
        self._overrides = [f"root={Path(root).absolute()}", *overrides]
        self._samples: dict[str, Path] = {}  # by key: the run that has them

    def run(self, name: str, recipe: Path) -> Outcome:
        """Raises: RuntimeError with a job's output where it fails."""
        settings = load_settings(str(recipe), self._overrides)
        run, paths = Path(settings.run_folder), RunPaths(settings.run_folder)
        key = samples_key(settings)
        if key in self._samples:
            share_samples(self._samples[key], run)
        else:
            self._job("build_samples", recipe)
            self._samples[key] = run
        self._job("train", recipe)
        self._job("evaluate", recipe)
        published = self._job("score_items", recipe, (0, GateError.exit_code)) == 0
        model = read_model_manifest(paths.model)
        kept = json.loads(Path(paths.evaluation).read_text(encoding="utf-8"))[KEPT]
        return Outcome(
            name=name,
            title=title(recipe),
            loss=loss_names(settings),
            mean_loss=model.loss[-1],
            auc=model.auc[-1],
            scorer_auc=model.metrics[-1].get("scorer_auc"),
            recalls={row: metrics[METRIC] for row, metrics in kept.items()},
            train_s=model.rows_per_epoch * model.epochs / model.rows_per_s,
            published=published,
        )

    def _job(self, job: str, recipe: Path, expected: Iterable[int] = (0,)) -> int:
        return run_job(job, str(recipe), self._overrides, expected)


# The table -------------------------------------------------------------------------------------------


def ranked(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: (-outcome.recall, outcome.name))


def bounds(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Returns the recall of the rankings that need no model: the same users and items whatever the recipe."""
    recalls = outcomes[0].recalls
    return {name: f"{recalls[name]:.3f}" for name in (BEST_REACHABLE, POPULARITY)}


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Returns the table for README.md."""
    rows = [
        [f"[`{outcome.name}`](conf/recipes/{outcome.name}.yaml)", outcome.title, *outcome.figures()]
        for outcome in ranked(outcomes)
    ]
    rows += [
        [f"*{name.replace('_', ' ')}*", "", "", "", "", recall, "", ""] for name, recall in bounds(outcomes).items()
    ]
    head = ["recipe", "what it is", *COLUMNS[1:]]
    rule = [*["---"] * 3, *["---:"] * (len(head) - 3)]
    return markdown_table(head, rows, rule)


def kept_outcomes() -> list[Outcome]:
    """Returns what stands in results/, whenever each recipe was run."""
    kept = json.loads((RESULTS / "recipes.json").read_text(encoding="utf-8"))["figures"]["recipes"]
    return [Outcome(**of_recipe) for of_recipe in kept.values()]


def show(outcomes: Sequence[Outcome], keep: bool) -> None:
    ordered = ranked(outcomes)
    rows = [[outcome.name, *outcome.figures()] for outcome in ordered]
    rows += [[name, "", "", "", recall, "", ""] for name, recall in bounds(outcomes).items()]
    refused = [outcome.name for outcome in ordered if not outcome.published]
    notes = [*NOTES, *([f"Refused by the gate: {', '.join(refused)}."] if refused else [])]
    ratios: Mapping[str, float] = {f"{outcome.name} of best reachable": outcome.share_of_best for outcome in ordered}
    figures = {"recipes": {outcome.name: asdict(outcome) for outcome in outcomes}}
    report("recipes", "Recipes on the demo's feed", COLUMNS, rows, ratios, notes=notes, figures=figures, keep=keep)


# Command ---------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", choices=recipes(), action="append", help="a recipe; may be repeated")
    parser.add_argument(
        "--keep", action="store_true",
        help="with --only: put the rows into README.md and results/, beside those of the recipes that stand there",
    )  # fmt: skip
    parser.add_argument("--root", default=ROOT, help="folder of the runs (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="goes over every recipe")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(argv)
    if write_demo(["--config", DEMO, *(option for value in given.set for option in ("--set", value))]) != 0:
        raise SystemExit(2)
    chosen = {name: path for name, path in recipes().items() if given.only is None or name in given.only}
    runner, outcomes = Runner(given.root, given.set), []
    for number, (name, path) in enumerate(chosen.items(), start=1):
        started = time.perf_counter()
        outcomes.append(runner.run(name, path))
        seconds = time.perf_counter() - started
        print(
            f"{number}/{len(chosen)} {name}: {METRIC} {outcomes[-1].recall:.4f}, {seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    kept = (given.only is None or given.keep) and not given.set
    if kept and given.only is not None:
        outcomes = [*(before for before in kept_outcomes() if before.name not in chosen), *outcomes]
    show(outcomes, kept)
    if kept:
        replace_table(README, "recipes", markdown(outcomes))


if __name__ == "__main__":
    main()
