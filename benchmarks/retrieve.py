"""make bench-retrieve: what `evaluate` does for the model, against a bare product of matrices with a top-K selection.

The same users and items, a process a core with one thread of BLAS each, by turns of some users:

- a task of `evaluate`: the best items with seen ones kept and filtered, metrics, groups, replicates of the bootstrap;
- two bare sides in NumPy, the best items with seen ones kept and no more: of each block of scores what is above the
  row's K-th best is merged, or `argpartition` picks each block's best; the faster one is what we are held against;
- the product alone.

The slower bare side and the product alone have one turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from benchmarks.report import report
from dssm.evaluation import KEPT, MODEL, POPULARITY
from dssm.retrieval.arrays import mapped, part_name, parts, write_array
from dssm.retrieval.rankers import COLD_ITEMS, ITEM_KEYS, VECTORS, Block, Rankers
from dssm.retrieval.ranking import Activity, Asked, Ranking
from dssm.retrieval.search import ITEMS_AT_ONCE, Scores
from dssm.sections import Evaluate

USERS, ITEMS, DIM = 20_000, 1_000_000, 128
PER_TURN = 10  # blocks of users that a side ranks for before the next one's turn
SEEN, CLICKED = 100, 3  # items of a user
FILE_ITEMS = 131_072
SETTINGS = Evaluate()
COUNT, BLOCK = max(SETTINGS.cutoffs), SETTINGS.users_per_block
AGREE = 0.999  # of the best items: sums in another order make others equal

OURS, MERGED, PARTITIONED, PRODUCT = (
    "evaluate's task: both views, metrics, bootstrap",
    "bare: product, above the K-th best merged",
    "bare: product, argpartition of each block",
    "the product alone, nothing selected",
)
BARE = (MERGED, PARTITIONED)


def write(folder: str, users: int, items: int, dim: int) -> None:
    """Draws unit vectors of users and items, and what each user saw and clicked."""
    for first in range(0, items, FILE_ITEMS):
        count = min(FILE_ITEMS, items - first)
        write_array(folder, part_name(VECTORS, first), _unit_vectors(1 + first, count, dim))
        write_array(folder, part_name(COLD_ITEMS, first), np.arange(first, first + count) % 10 == 0)
        write_array(folder, part_name(ITEM_KEYS, first), np.arange(first, first + count))
    random = np.random.default_rng(0)
    write_array(folder, POPULARITY, random.integers(0, 1000, items).astype(np.float32))
    write_array(folder, "users", _unit_vectors(0, users, dim))
    for name, count in (("seen", SEEN), ("clicked", CLICKED)):
        write_array(folder, name, random.integers(0, items, (users, count)))


def _unit_vectors(seed: int, rows: int, dim: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def evaluated(folder: str, blocks: Sequence[slice]) -> np.ndarray:
    """What a task of `evaluate` does, from the users' vectors to the bytes that it hands back. Returns: users."""
    arrays = mapped(folder)
    items = len(arrays[POPULARITY])
    activity = Activity(np.array([SEEN]), np.array([len(arrays["users"])]))
    ranking = Ranking(ModelAlone(folder, items), Asked(SETTINGS.cutoffs, SETTINGS.bootstrap, 0, activity))
    for block in blocks:
        vectors = np.asarray(arrays["users"][block])
        seen, clicked = (_matrix(arrays[name][block], items) for name in ("seen", "clicked"))
        ids = pa.array(np.arange(len(vectors)).astype(str))
        keys = np.arange(block.start, block.stop)
        ranking.add(Block(ids, keys, vectors, clicked, seen, sp.csr_matrix(seen.shape, dtype=np.float32)))
    ranking.found.packed()
    return np.array([ranking.found.tallies[KEPT, MODEL].users])


class ModelAlone(Rankers):
    """The model without its baselines."""

    @property
    def names(self) -> list[str]:
        return [MODEL]

    def scores(self, block: Block, with_history: bool = True) -> Iterator[tuple[str, Iterator[Scores]]]:
        found: tuple[str, Iterator[Scores]] = next(super().scores(block, with_history))
        yield found


def _matrix(items: np.ndarray, columns: int) -> sp.csr_matrix:
    rows = np.repeat(np.arange(len(items)), items.shape[1])
    made = sp.csr_matrix((np.ones(items.size, np.float32), (rows, items.ravel())), (len(items), columns))
    made.data[:] = 1
    return made


def products(users: np.ndarray, folder: str) -> Iterator[Scores]:
    """Yields the scores of blocks of items; they lie in the same memory."""
    memory = np.empty(len(users) * ITEMS_AT_ONCE, np.float32)
    for first, vectors in parts(mapped(folder), VECTORS):
        for start in range(0, len(vectors), ITEMS_AT_ONCE):
            part = vectors[start : start + ITEMS_AT_ONCE]
            scores = memory[: len(users) * len(part)].reshape(len(users), len(part))
            yield first + start, np.dot(users, part.T, out=scores)


def merged(users: np.ndarray, folder: str) -> np.ndarray:
    """Returns the COUNT best items of each user, best first."""
    best = np.full((len(users), COUNT), -np.inf, np.float32)
    items = np.zeros((len(users), COUNT), np.int64)
    memory = np.empty(len(users) * ITEMS_AT_ONCE, bool)
    for first, scores in products(users, folder):
        above = memory[: scores.size].reshape(scores.shape)
        np.greater(scores, best.min(axis=1, keepdims=True), out=above)
        rows, columns = np.divmod(np.flatnonzero(above), scores.shape[1])
        counts = np.bincount(rows, minlength=len(users))
        places = COUNT + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        joined = np.pad(best, ((0, 0), (0, counts.max())), constant_values=-np.inf)
        which = np.pad(items, ((0, 0), (0, counts.max())))
        joined[rows, places], which[rows, places] = scores[rows, columns], first + columns
        best, items = _largest(joined, which)
    return np.take_along_axis(items, np.argsort(-best, axis=1), axis=1)


def partitioned(users: np.ndarray, folder: str) -> np.ndarray:
    """Returns the COUNT best items of each user, best first."""
    best = np.zeros((len(users), 0), np.float32)
    items = np.zeros((len(users), 0), np.int64)
    for first, scores in products(users, folder):
        of_block = np.broadcast_to(np.arange(first, first + scores.shape[1]), scores.shape)
        chosen, which = _largest(scores, of_block)
        best, items = _largest(np.hstack([best, chosen]), np.hstack([items, which]))
    return np.take_along_axis(items, np.argsort(-best, axis=1), axis=1)


def _largest(scores: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if scores.shape[1] <= COUNT:
        return scores.copy(), items.copy()
    places = np.argpartition(scores, scores.shape[1] - COUNT, axis=1)[:, -COUNT:]
    return np.take_along_axis(scores, places, axis=1), np.take_along_axis(items, places, axis=1)


def product_alone(users: np.ndarray, folder: str) -> np.ndarray:
    for _ in products(users, folder):
        pass
    return np.zeros((len(users), 0))


def by_block(
    function: Callable[[np.ndarray, str], np.ndarray],
) -> Callable[[str, Sequence[slice]], np.ndarray]:
    def run(folder: str, blocks: Sequence[slice]) -> np.ndarray:
        users = mapped(folder)["users"]
        return np.array([len(function(np.asarray(users[block]), folder)) for block in blocks])

    return run


SIDES: dict[str, Callable[[str, Sequence[slice]], np.ndarray]] = {
    OURS: evaluated,
    MERGED: by_block(merged),
    PARTITIONED: by_block(partitioned),
    PRODUCT: by_block(product_alone),
}


def measure(side: str, folder: str, blocks: Sequence[slice]) -> tuple[int, float]:
    """Returns how many users a side's share of the blocks holds, and the processor seconds that it took."""
    began = time.process_time()
    users = int(SIDES[side](folder, blocks).sum())
    return users, time.process_time() - began


@dataclass(frozen=True)
class Cost:
    """Of a side, over the users that it has ranked for. wall_s: seconds; cpu_s: of all processes."""

    users: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def users_per_s(self) -> float:
        return self.users / self.wall_s


Runner = Callable[[str, Sequence[slice]], list[tuple[int, float]]]
"""Lets a side rank for the users of some blocks. Returns: `measure` of each process."""


def costs(run: Runner, blocks: Sequence[slice], per_turn: int) -> dict[str, Cost]:
    """Lets the sides take turns: all of them in the first, then ours and the bare one that was faster.

    Args: per_turn: blocks of a turn.
    Raises: RuntimeError where a side ranks for fewer users than there are.
    """
    found = dict.fromkeys(SIDES, Cost())
    for first in range(0, len(blocks), per_turn):
        turn = blocks[first : first + per_turn]
        users = sum(block.stop - block.start for block in turn)
        for side in SIDES if first == 0 else (OURS, faster(found)):
            began = time.perf_counter()
            done = run(side, turn)
            took, before = time.perf_counter() - began, found[side]
            if sum(ranked for ranked, _ in done) != users:
                raise RuntimeError(f"{side}: {sum(ranked for ranked, _ in done)} users of {users} ranked for")
            cpu = sum(seconds for _, seconds in done)
            found[side] = Cost(before.users + users, before.wall_s + took, before.cpu_s + cpu)
            print(f"{found[side].users:,} users, {side}: {found[side].users_per_s:,.0f} users/s", flush=True)
    return found


def faster(found: Mapping[str, Cost]) -> str:
    return max(BARE, key=lambda side: found[side].users_per_s)


def blocks_of(users: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, users)) for start in range(0, users, BLOCK)]


def check(folder: str) -> None:
    """Raises: RuntimeError where the sides find other items for the first users."""
    from dssm.retrieval.search import best_items, product_blocks

    arrays = mapped(folder)
    users = np.asarray(arrays["users"][:64])
    blocks = product_blocks(users, parts(arrays, VECTORS))
    ours = best_items(blocks, len(users), len(arrays[POPULARITY]), COUNT)[0].items
    for side, found in ((MERGED, merged(users, folder)), (PARTITIONED, partitioned(users, folder))):
        same = float((ours == found).mean())
        if same < AGREE:
            raise RuntimeError(f"{side}: {same:.1%} of the best items are those of this project's search")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench-retrieve", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args(argv)
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # of the processes to be started
    with tempfile.TemporaryDirectory() as folder:
        write(folder, given.users, given.items, given.dim)
        check(folder)
        with multiprocessing.get_context("spawn").Pool(given.processes) as pool:

            def run(side: str, blocks: Sequence[slice]) -> list[tuple[int, float]]:
                shares = [blocks[number :: given.processes] for number in range(given.processes)]
                return pool.starmap(measure, [(side, folder, share) for share in shares], chunksize=1)

            found = costs(run, blocks_of(given.users), PER_TURN)
    show(found, given, keep=(given.users, given.items, given.dim) == (USERS, ITEMS, DIM))


def show(found: Mapping[str, Cost], given: argparse.Namespace, keep: bool) -> None:
    """Prints and keeps the figures. Args: given: the command's options."""
    items, ours = given.items, found[OURS].users_per_s
    rows = [
        [
            side, f"{cost.users:,}", f"{cost.users_per_s:,.0f}", f"{cost.cpu_s / cost.users / items * 1e9:.2f}",
            f"{ours / cost.users_per_s:.2f}",
        ]
        for side, cost in found.items()
    ]  # fmt: skip
    ratios = {
        "vs_blas": ours / found[faster(found)].users_per_s,
        "vs_product_alone": ours / found[PRODUCT].users_per_s,
    }
    notes = (
        f"{given.processes} processes, one thread each. {COUNT} best items of each user, "
        f"blocks of {BLOCK} users and {ITEMS_AT_ONCE:,} items; this project's side filters {SEEN} seen items a user "
        f"and has {SETTINGS.bootstrap} replicates.",
        "ns / score: processor time a user and item. vs_blas: our users/s by those of the faster bare side.",
    )
    title = f"{given.users:,} users × {items:,} items × {given.dim} numbers"
    report(
        "retrieve", title, ["", "users", "users/s", "ns / score", "ours / this"], rows, ratios, notes=notes, keep=keep
    )


if __name__ == "__main__":
    main()
