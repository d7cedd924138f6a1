"""make bench-ablation: what each part of a recipe is worth, by leaving it out or changing it. Several seeds each.

    make bench-ablation DATA=folder

The samples are built once; each variant trains in one process and is ranked over the whole catalogue for the
same users as `evaluate` ranks for. Spread is over the seeds of initial weights, order and dropout.

What is finished is kept in the run's folder: the same command goes on where it was broken off, and --only adds groups
to those that are there. The table has all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks import report as results
from benchmarks.report import markdown_table, marks, replace_table, report
from dssm import storage
from dssm.config import Settings, load_settings
from dssm.manifest import CLICKED, ITEM_INDEX, SEEN, USER_ID, WARM, data_files, read_manifest
from dssm.packing import unpack
from dssm.paths import RunPaths
from dssm.retrieval.search import best_items
from dssm.retrieval.tally import ItemGroups, Tally, UserGroups

CUTOFFS = (50, 100)
BLOCK = 1024  # users ranked at once
TRAIN = (
    "import sys; from dssm.config import load_settings; from dssm.train.worker import train_here; "
    "train_here(load_settings(sys.argv[1], sys.argv[2:]), lambda report: None)"
)
Recalls = Mapping[str, float]  # by view and cutoff

# What differs from the recipe, as --set would: in groups, so that --only can choose.
VARIANTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "recipe": {"as it is": []},
    "logq": {
        "off": ["train.loss.logq=off"],
        "batch counts": ["train.loss.logq=batch"],
        "streaming": ["train.loss.logq=streaming"],
        "strength 0.5": ["train.loss.logq_strength=0.5"],
    },
    "negatives": {"mixed, 512 uniform": ["train.loss.kind=mixed_negative", "train.loss.uniform=512"]},
    "temperature": {f"τ {value}": [f"model.temperature={value}"] for value in (0.05, 0.07, 0.15, 0.2)},
    "training": {
        "no last pass": ["train.recent=null"],
        "impressions are no targets": ["train.loss.impression_weight=0"],
    },
    "towers": {
        "no residual": ["model.user_tower.residual=[]", "model.item_tower.residual=[]"],
        "no hidden layers": ["model.user_tower.layers=[]", "model.item_tower.layers=[]"],
        "senet": ["model.user_tower.kind=senet", "model.item_tower.kind=senet"],
    },
}


@dataclass(frozen=True)
class Variant:
    """A change to the recipe. Args: changes: as --set would make them."""

    group: str
    name: str
    changes: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.group}: {self.name}"


def variants_of(settings: Settings) -> list[Variant]:
    """Returns all variants, group by group."""
    groups = {**VARIANTS, "features": _feature_groups(settings)}
    return [Variant(group, name, tuple(of[name])) for group, of in groups.items() for name in of]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--config", default="conf/kuairand_ablation.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant; %(default)s")
    parser.add_argument("--only", nargs="*", metavar="GROUP", help=f"some of {', '.join([*VARIANTS, 'features'])}")
    parser.add_argument(
        "--docs", action="store_true",
        help="put the table into docs/performance.md, where rows of variants that are not finished here, or of more "
        "seeds, stay",
    )  # fmt: skip
    options = parser.parse_args(argv)
    base = load_settings(options.config, options.set)
    if not Path(RunPaths(base.run_folder).part("train"), "manifest.json").exists():
        subprocess.run(
            ["./spark-submit.sh", "build_samples", "--config", options.config, *_sets(options.set)], check=True
        )
    runs = Runs(options.config, options.set, base)
    variants = variants_of(base)
    groups = options.only if options.only is not None else dict.fromkeys(variant.group for variant in variants)
    chosen = [variant for group in groups for variant in variants if variant.group == group]
    wanted = [(variant, seed) for variant in chosen for seed in range(options.seeds)]
    waiting = [one for one in wanted if runs.finished(*one) is None]
    started = time.monotonic()
    for done, (variant, seed) in enumerate(waiting, start=1):
        found = runs.run(variant, seed)
        left = (time.monotonic() - started) / done * (len(waiting) - done)
        print(
            f"{done}/{len(waiting)} {variant.title}, seed {seed}: {_shown(found)}  {left / 60:.0f} min left",
            flush=True,
        )
    show(base.name, options.seeds, dict(runs.all_finished(variants, options.seeds)), keep=options.docs)


class Runs:
    """Trainings of variants on one set of samples, and what is known of those that are finished.

    Args: overrides: settings that go over the file's.
    """

    def __init__(self, config: str, overrides: Sequence[str], base: Settings) -> None:
        self._config, self._overrides, self._base = config, overrides, base
        self._samples = RunPaths(base.run_folder).samples
        self._build = read_manifest(RunPaths(base.run_folder).part("train"), "build_samples").build
        self._kept = Path(self._settings(Variant("", "", ()), 0)[1].run_folder, "finished.json")

    def finished(self, variant: Variant, seed: int) -> Recalls | None:
        """Returns what a training came to, with these settings on these samples; None where it has not ended yet."""
        return self._known().get(self._key(self._settings(variant, seed)[1]))

    def all_finished(self, variants: Sequence[Variant], seeds: int) -> Iterator[tuple[Variant, list[Recalls]]]:
        """Yields the variants of which all seeds are finished."""
        for variant in variants:
            found = [self.finished(variant, seed) for seed in range(seeds)]
            known = [one for one in found if one is not None]
            if len(known) == seeds:
                yield variant, known

    def run(self, variant: Variant, seed: int) -> Recalls:
        """Trains one variant on the recipe's samples, and keeps what it came to."""
        changes, settings = self._settings(variant, seed)
        paths = RunPaths(settings.run_folder)
        Path(paths.folder).mkdir(parents=True, exist_ok=True)
        if not Path(paths.samples).exists():
            Path(paths.samples).symlink_to(Path(self._samples).absolute())
        subprocess.run(
            [sys.executable, "-c", TRAIN, self._config, *changes],
            check=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        found = recall(settings)
        storage.write_text(str(self._kept), json.dumps({**self._known(), self._key(settings): found}, indent=1))
        return found

    def _settings(self, variant: Variant, seed: int) -> tuple[list[str], Settings]:
        changes = [
            *self._overrides, *variant.changes, f"name={self._base.name}-variant", f"seed={self._base.seed + seed}",
            "train.launch=single", "train.ranks=1",
        ]  # fmt: skip
        return changes, load_settings(self._config, changes)

    def _key(self, settings: Settings) -> str:
        return storage.digest(self._build, settings.model_dump_json(exclude={"spark"}))

    def _known(self) -> dict[str, Recalls]:
        known: dict[str, Recalls] = json.loads(self._kept.read_text(encoding="utf-8")) if self._kept.exists() else {}
        return known


def show(name: str, seeds: int, found: Mapping[Variant, Sequence[Recalls]], keep: bool) -> None:
    """Prints the table. Args: keep: whether it goes into docs/performance.md and results/ as well.

    What is kept of a variant stays where it is of more seeds than are finished here.
    """
    heads = ["", "variant", *(f"{view} recall@{k}" for view in ("kept", "filtered") for k in CUTOFFS)]
    before, figures = kept_rows() if keep else [], kept_figures() if keep else {}
    kept_seeds = {of: len(figures.get(of, [])) or 1 + ("±" in row[2]) for of, row in named(before).items()}
    made = {}
    for variant, recalls in found.items():
        if kept_seeds.get(variant.title, 0) <= len(recalls):
            made[variant] = recalls
        else:
            print(f"{variant.title}: stays as it is kept, of more seeds than the {len(recalls)} that are finished here")
    rows = merged(before, [[of.group, of.name, *_columns(recalls)] for of, recalls in made.items()])
    figures |= {variant.title: list(recalls) for variant, recalls in made.items()}
    title = f"{name}: mean ± deviation over seeds, {seeds} for rows made now"
    report("ablation", title, heads, rows, ratios_of(rows), figures=figures, keep=keep)
    if keep:
        replace_table(results.PAGE, "ablation", markdown_table(heads, rows, ["---"] * len(heads)))


def kept_rows() -> list[list[str]]:
    """Returns the rows that stand in the page and in results/; where they differ, as after a break between the two
    writes, those in results/, which are written first.
    """
    return merged(rows_of(results.PAGE), _kept().get("rows", []))


def kept_figures() -> dict[str, list[Recalls]]:
    """Returns the seeds' recalls of each variant that stand in results/, as far as they do."""
    return dict(_kept().get("figures", {}))


def _kept() -> dict[str, Any]:
    place = results.RESULTS / "ablation.json"
    kept: dict[str, Any] = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    return kept


def ratios_of(rows: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns each variant's mean recall@50, seen items kept, by the recipe's. Args: rows: as in the table."""
    means = {name: float(row[2].split()[0]) for name, row in named(rows).items()}
    recipe = means.pop("recipe: as it is", None)
    return {} if recipe is None else {name: mean / recipe for name, mean in means.items()}


def named(rows: Sequence[Sequence[str]]) -> dict[str, Sequence[str]]:
    """Returns the rows of a table by group and variant. Args: rows: the group is empty where it is the last row's."""
    found, group = dict[str, Sequence[str]](), ""
    for row in rows:
        group = row[0] or group
        found[f"{group}: {row[1]}"] = row
    return found


def merged(before: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns rows of a table, group by group, where those of `rows` take the place of others of their name.

    Args: before, rows: the group, empty in `before` where it is the last row's, the variant, and its figures.
    """
    found: dict[str, dict[str, list[str]]] = {}
    group = ""
    for row in (*before, *rows):
        group = row[0] or group
        found.setdefault(group, {})[row[1]] = list(row)
    return [
        [name if number == 0 else "", *row[1:]]
        for name, of_group in found.items()
        for number, row in enumerate(of_group.values())
    ]


def rows_of(page: Path) -> list[list[str]]:
    """Returns the rows of the table that is in a page."""
    begin, end = marks("ablation")
    lines = page.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0].split("\n")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return cells[2:]


def _feature_groups(settings: Settings) -> dict[str, list[str]]:
    """Returns, by what is left out, the settings without it: features of histories, of profiles, of the item."""
    histories = [f.name for f in settings.features.values() if f.source_column in settings.histories]
    times = [f.name for f in settings.features.values() if getattr(f, "time", None) is not None]
    groups = {
        "no histories": histories,
        "no user id": [name for name in ("user_id",) if name in settings.features],
        "no profile": [
            f.name
            for f in settings.features.values()
            if f.side == "user" and f.name not in (*histories, *times, "user_id")
        ],
        "no hour and weekday": times,
        "no pretrained vectors": [f.name for f in settings.features.values() if getattr(f, "pre_embed", None)],
        "item id and tags": [f.name for f in settings.features.values() if f.side == "item" and f.name != "video_id"],
    }
    shared = {getattr(f, "share_embedding", None) for f in settings.features.values()}
    off = {
        name: [f"features.{feature}=null" for feature in features if feature not in shared]
        for name, features in groups.items()
        if features
    }
    off.get("no histories", []).append("model.user_tower.residual=[]")  # which names some of them
    return off


def _sets(changes: Sequence[str]) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def recall(settings: Settings) -> Recalls:
    """Ranks the catalogue for the warm users of the test window, as `evaluate` does. Returns: by view and cutoff."""
    from dssm.model.export import LoadedTower

    paths = RunPaths(settings.run_folder)
    users, items, seen_of = (_read(paths.part(part)) for part in ("users", "items", "interactions"))
    order = np.argsort(items[ITEM_INDEX])
    item_tower, user_tower = (LoadedTower(f"{paths.model}/{side}_tower") for side in ("item", "user"))
    vectors = item_tower.vectors({name: items[name][order] for name in item_tower.inputs})
    seen = dict(zip(seen_of[USER_ID], seen_of[SEEN], strict=True))
    warm = np.flatnonzero((users[WARM] > 0) & np.array([len(clicked) > 0 for clicked in users[CLICKED]]))
    tallies = {view: Tally.empty(CUTOFFS, len(vectors)) for view in ("kept", "filtered")}
    groups = ItemGroups(np.zeros(len(vectors), np.int64), np.zeros(len(vectors), bool))  # not looked at
    for start in range(0, len(warm), BLOCK):
        block = warm[start : start + BLOCK]
        scores = user_tower.vectors({name: users[name][block] for name in user_tower.inputs}) @ vectors.T
        wanted, known = np.zeros(scores.shape, bool), np.zeros(scores.shape, bool)
        for row, user in enumerate(block):
            wanted[row, users[CLICKED][user]] = True
            known[row, seen.get(users[USER_ID][user], [])] = True
        best = best_items([(0, scores)], *scores.shape, max(CUTOFFS), np.flatnonzero(known))
        alike = UserGroups(np.zeros((0, len(block))), np.zeros(len(block), np.int64))
        for tally, ranked, relevant in zip(tallies.values(), best, (wanted, wanted & ~known), strict=True):
            tally.count(ranked.items, np.flatnonzero(relevant), alike, groups)
    recalls = {view: tally.metrics() for view, tally in tallies.items()}
    return {f"{view}@{k}": recalls[view][f"recall@{k}"] or 0.0 for view in recalls for k in CUTOFFS}


def _read(folder: str) -> dict[str, np.ndarray]:
    """Reads a dataset whole: packed columns as matrices, lists as arrays of arrays."""
    manifest = read_manifest(folder, "build_samples")
    table = pq.read_table(data_files(folder, manifest)).combine_chunks()
    read = {}
    for name, spec in manifest.columns.items():
        column = table[name].chunk(0)
        if spec.encoding in ("text", "list"):
            read[name] = column.to_numpy(zero_copy_only=False)
        else:
            read[name] = unpack(column, spec)
    return read


def _shown(one: Recalls) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in one.items())


def _columns(found: Sequence[Recalls]) -> list[str]:
    return [mean_and_deviation([one[f"{view}@{k}"] for one in found]) for view in ("kept", "filtered") for k in CUTOFFS]


def mean_and_deviation(values: Sequence[float]) -> str:
    """The deviation is the sample's: a few seeds stand for all. One alone has none."""
    mean = f"{np.mean(values):.4f}"
    return f"{mean} ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
