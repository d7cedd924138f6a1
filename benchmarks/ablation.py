"""make bench-ablation: what each part of a recipe is worth, by leaving it out or changing it. Several seeds each.

    python -m benchmarks.ablation --config conf/kuairand.yaml --set data=… --seeds 3 --only logq

The samples are built once; each variant trains in one process and is ranked over the whole catalogue for the
same users as `evaluate` ranks for. Spread is over the seeds of initial weights, order and dropout.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.report import report
from dssm.config import Settings, load_settings
from dssm.manifest import CLICKED, ITEM_INDEX, SEEN, USER_ID, WARM, data_files, read_manifest
from dssm.packing import unpack
from dssm.paths import RunPaths
from dssm.retrieval.tally import Tally

CUTOFFS = (50, 100)
BLOCK = 1024  # users ranked at once
TRAIN = (
    "import sys; from dssm.config import load_settings; from dssm.train.worker import train_here; "
    "train_here(load_settings(sys.argv[1], sys.argv[2:]), lambda report: None)"
)

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
    },
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--config", default="conf/kuairand.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant; %(default)s")
    parser.add_argument("--only", nargs="*", metavar="GROUP", help=f"some of {', '.join([*VARIANTS, 'features'])}")
    options = parser.parse_args(argv)
    base = load_settings(options.config, options.set)
    groups = {**VARIANTS, "features": _feature_groups(base)}
    chosen = {name: groups[name] for name in (options.only or groups)}
    if not Path(RunPaths(base.run_folder).part("train"), "manifest.json").exists():
        subprocess.run(
            ["./spark-submit.sh", "build_samples", "--config", options.config, *_sets(options.set)], check=True
        )
    rows, figures, started = [], {}, time.monotonic()
    total = options.seeds * sum(len(variants) for variants in chosen.values())
    done = 0
    for group, variants in chosen.items():
        for name, changes in variants.items():
            found = []
            for seed in range(options.seeds):
                found.append(_measure(options.config, [*options.set, *changes], base, seed))
                done += 1
                left = (time.monotonic() - started) / done * (total - done)
                print(
                    f"{done}/{total} {group}: {name}, seed {seed}: {_shown(found[-1])}  {left / 60:.0f} min left",
                    flush=True,
                )
            figures[f"{group}: {name}"] = found
            rows.append([group, name, *_columns(found)])
    recipe = figures.get("recipe: as it is")
    ratios = {}
    if recipe:
        ratios = {
            name: _mean(found, "kept", 50) / _mean(recipe, "kept", 50)
            for name, found in figures.items()
            if found is not recipe
        }
    columns = ["", "variant", *(f"{view} recall@{k}" for view in ("kept", "filtered") for k in CUTOFFS)]
    report(
        "ablation", f"{base.name}: mean ± deviation of {options.seeds} seeds", columns, rows, ratios, figures=figures
    )


def _feature_groups(settings: Settings) -> dict[str, list[str]]:
    """Returns, by what is left out, the settings without it: features of histories, of profiles, of the item."""
    histories = [f.name for f in settings.features.values() if f.source_column in settings.histories]
    groups = {
        "no histories": histories,
        "no user id": [name for name in ("user_id",) if name in settings.features],
        "no profile": [
            f.name
            for f in settings.features.values()
            if f.side == "user" and f.name not in histories and f.name != "user_id"
        ],
        "no pretrained vectors": [f.name for f in settings.features.values() if getattr(f, "pre_embed", None)],
        "item id alone": [f.name for f in settings.features.values() if f.side == "item" and f.name != "video_id"],
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


def _measure(config: str, changes: Sequence[str], base: Settings, seed: int) -> dict[str, float]:
    """Trains one variant on the recipe's samples. Returns: recall by view and cutoff."""
    name = f"{base.name}-ablation"
    changes = [*changes, f"name={name}", f"seed={base.seed + seed}", "train.launch=single", "train.ranks=1"]
    settings = load_settings(config, changes)
    paths, samples = RunPaths(settings.run_folder), RunPaths(base.run_folder).samples
    Path(paths.folder).mkdir(parents=True, exist_ok=True)
    if not Path(paths.samples).exists():
        Path(paths.samples).symlink_to(samples)
    subprocess.run(
        [sys.executable, "-c", TRAIN, config, *changes], check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    return recall(settings)


def recall(settings: Settings) -> dict[str, float]:
    """Ranks the catalogue for the warm users of the test window, as `evaluate` does. Returns: by view and cutoff."""
    from dssm.model.export import LoadedTower

    paths = RunPaths(settings.run_folder)
    users, items, seen_of = (_read(paths.part(part)) for part in ("users", "items", "interactions"))
    order = np.argsort(items[ITEM_INDEX])
    item_tower, user_tower = (LoadedTower(f"{paths.model}/{side}_tower") for side in ("item", "user"))
    vectors = item_tower.vectors({name: items[name][order] for name in item_tower.inputs})
    seen = dict(zip(seen_of[USER_ID], seen_of[SEEN], strict=True))
    warm = np.flatnonzero(users[WARM] > 0)
    tallies = {view: Tally.empty(CUTOFFS, len(vectors)) for view in ("kept", "filtered")}
    tenths = np.zeros(len(vectors), np.int64)  # not looked at
    for start in range(0, len(warm), BLOCK):
        block = warm[start : start + BLOCK]
        scores = user_tower.vectors({name: users[name][block] for name in user_tower.inputs}) @ vectors.T
        wanted, known = np.zeros(scores.shape, bool), np.zeros(scores.shape, bool)
        for row, user in enumerate(block):
            wanted[row, users[CLICKED][user]] = True
            known[row, seen.get(users[USER_ID][user], [])] = True
        tallies["kept"].add(scores, wanted, tenths)
        tallies["filtered"].add(np.where(known, -np.inf, scores), wanted & ~known, tenths)
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


def _mean(found: Sequence[Mapping[str, float]], view: str, k: int) -> float:
    return float(np.mean([one[f"{view}@{k}"] for one in found]))


def _shown(one: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in one.items())


def _columns(found: Sequence[Mapping[str, float]]) -> list[str]:
    return [
        f"{_mean(found, view, k):.4f} ± {np.std([one[f'{view}@{k}'] for one in found]):.4f}"
        for view in ("kept", "filtered")
        for k in CUTOFFS
    ]


if __name__ == "__main__":
    main()
