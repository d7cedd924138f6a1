"""A second stream: items of the encoded catalogue, drawn uniformly for each step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dssm.manifest import ColumnSpec, Manifest
from dssm.sections import Staging
from dssm.stream.plan import plan_epoch
from dssm.stream.reader import Columns, read_files


def catalogue_batches(
    folder: str,
    manifest: Manifest,
    columns: Mapping[str, ColumnSpec],
    items: int,
    rank: int,
    seed: Sequence[int],
    skip: int = 0,
    staging: Staging | None = None,
) -> Iterator[Columns]:
    """Draws items of the catalogue without end, each as often as any other: pass after pass, each in a new order.

    Every rank passes over all files, in an order of its own: files shared out among the ranks would give items of small
    files more often, and a rank none where there are fewer files than ranks.

    Args:
      folder: the encoded catalogue, samples/items, with at least one item.
      manifest: its manifest.
      columns: what to read.
      items: of a batch.
      seed: of the order; numbers from 0.
      skip: batches that are left out, without reading what is in them alone.
    Yields: arrays of shape (items, *column shape).
    """
    counts = [file.rows for file in manifest.files]
    seed = (*seed, rank)
    held: list[Columns] = []
    count, skipped = 0, skip * items
    for number in itertools.count():
        plan = plan_epoch(counts, _seed_of(seed), number, 1, items)
        chosen = list(plan.files[0])
        while chosen and skipped >= counts[chosen[0]]:
            skipped -= counts[chosen.pop(0)]
        files = read_files(folder, [manifest.files[place] for place in chosen], columns, 1, staging=staging)
        for file, arrays in zip(chosen, files, strict=True):
            rows = len(next(iter(arrays.values())))
            order = np.random.default_rng([*seed, number, file]).permutation(rows)[skipped:]
            skipped = 0
            held.append({name: array[order] for name, array in arrays.items()})
            count += len(order)
            if count < items:
                continue
            joined = {name: np.concatenate([part[name] for part in held]) for name in columns}
            whole = count - count % items
            for start in range(0, whole, items):
                yield {name: array[start : start + items] for name, array in joined.items()}
            held, count = [{name: array[whole:] for name, array in joined.items()}], count - whole


def _seed_of(seed: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint32)[0])
