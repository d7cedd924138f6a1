"""A catalogue, rankers and users to rank for, without Spark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from dssm.evaluation import POPULARITY
from dssm.retrieval.arrays import part_name, write_array, write_matrix
from dssm.retrieval.rankers import COLD_ITEMS, ITEM_KEYS, RECENT_POSITIVES, RECENT_TARGETS, VECTORS, Block, Rankers
from dssm.retrieval.ranking import Activity, Asked

DIM = 4


def write_rankers(folder: Path, items: int, seed: int = 0) -> Rankers:
    """Writes random arrays of every ranker but the generated feed's; a third of the items is cold."""
    random = np.random.default_rng(seed)
    for first in range(0, items, 10):
        count = min(10, items - first)
        write_array(str(folder), part_name(VECTORS, first), random.normal(size=(count, DIM)).astype(np.float32))
        write_array(str(folder), part_name(COLD_ITEMS, first), np.arange(first, first + count) % 3 == 0)
        write_array(str(folder), part_name(ITEM_KEYS, first), random.integers(0, 2**62, count))
    for name in (POPULARITY, RECENT_TARGETS, RECENT_POSITIVES):
        write_array(str(folder), name, random.integers(0, 5, items).astype(np.float32))
    for name in ("itemcf", "itemcf_impressions"):
        similarity = sp.random(items, items, density=0.3, format="csr", dtype=np.float32, random_state=seed)
        write_matrix(str(folder), name, similarity)
    write_array(str(folder), "ease", random.normal(size=(items, items)).astype(np.float32))
    return Rankers(str(folder), items, recent=True, item_cf=("itemcf", "itemcf_impressions"), ease=True)


def make_block(users: int, items: int, seed: int = 1) -> Block:
    """Draws users with events before the window; some clicked nothing else in it."""
    random = np.random.default_rng(seed)
    seen, clicked = (
        sp.random(users, items, density=density, format="csr", dtype=np.float32, random_state=seed + number)
        for number, density in enumerate((0.3, 0.1))
    )
    for matrix in (seen, clicked):
        matrix.data[:] = 1
        matrix.sort_indices()
    vectors = random.normal(size=(users, DIM)).astype(np.float32)
    ids = pa.array([f"user{number:03d}" for number in range(users)])
    return Block(ids, random.integers(-(2**62), 2**62, users), vectors, clicked, seen, seen)


def part_of(block: Block, rows: slice) -> Block:
    matrices = (block.clicked[rows], block.seen[rows], block.positive[rows])
    return Block(block.ids[rows], block.keys[rows], block.vectors[rows], *matrices)


def activity_of(block: Block) -> Activity:
    items, users = np.unique(np.diff(block.seen.indptr), return_counts=True)
    return Activity(items, users)


def asked_of(block: Block, replicates: int = 7, examples: int = 3) -> Asked:
    return Asked((2, 5), replicates, examples, activity_of(block))
