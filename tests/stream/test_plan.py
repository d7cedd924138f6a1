from __future__ import annotations

import itertools
import math

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dssm.stream.plan import plan_epoch

many = settings(max_examples=800, deadline=None)

row_counts = st.lists(st.one_of(st.integers(0, 5), st.integers(0, 300)), max_size=40)
ranks_ = st.integers(1, 17)
batch_sizes = st.one_of(st.integers(1, 8), st.integers(1, 2000))
seeds = st.integers(0, 2**32)
epochs = st.integers(0, 9)


@many
@given(rows=row_counts, seed=seeds, epoch=epochs, ranks=ranks_, batch=batch_sizes)
def test_every_row_is_read_once_and_all_ranks_take_equal_steps(rows, seed, epoch, ranks, batch):
    plan = plan_epoch(rows, seed, epoch, ranks, batch)

    assert len(plan.files) == len(plan.rows) == ranks
    read = [file for files in plan.files for file in files]
    assert sorted(read) == [file for file, count in enumerate(rows) if count > 0]
    assert plan.rows == tuple(sum(rows[file] for file in files) for files in plan.files)
    assert sum(plan.rows) == sum(rows)
    # The steps hold every rank's rows, and the busiest rank's last step is not all padding.
    assert all(count <= plan.steps * batch for count in plan.rows)
    assert max(plan.rows) > (plan.steps - 1) * batch


@many
@given(rows=row_counts, seed=seeds, epoch=epochs, ranks=ranks_, batch=batch_sizes)
def test_the_plan_is_the_same_every_time(rows, seed, epoch, ranks, batch):
    assert plan_epoch(rows, seed, epoch, ranks, batch) == plan_epoch(list(rows), seed, epoch, ranks, batch)


@many
@given(rows=row_counts, seed=seeds, epoch=epochs, ranks=ranks_, batch=batch_sizes)
def test_no_rank_waits_longer_than_one_file_takes(rows, seed, epoch, ranks, batch):
    """List scheduling: the fullest rank has at most the mean and (1 − 1/ranks) of the largest file."""
    plan = plan_epoch(rows, seed, epoch, ranks, batch)
    largest = max(rows, default=0)
    assert plan.steps <= math.ceil((sum(rows) + (ranks - 1) * largest) / ranks / batch)


@many
@given(
    rows=st.lists(st.integers(0, 30), max_size=6),
    seed=seeds,
    epoch=epochs,
    ranks=st.integers(1, 3),
    batch=st.integers(1, 4),
)
def test_steps_are_within_grahams_bound_of_the_best_split(rows, seed, epoch, ranks, batch):
    best = min(
        max(sum(count for count, rank in zip(rows, split, strict=True) if rank == r) for r in range(ranks))
        for split in itertools.product(range(ranks), repeat=len(rows))
    )
    bound = (4 * ranks - 1) * best / (3 * ranks)  # 4/3 − 1/(3·ranks), Graham 1969
    assert plan_epoch(rows, seed, epoch, ranks, batch).steps <= math.ceil(bound / batch + 1e-9)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.integers(1, 200), min_size=9, max_size=30), seed=seeds, ranks=st.integers(1, 4))
def test_epochs_and_seeds_read_in_different_orders(rows, seed, ranks):
    plans = {plan_epoch(rows, seed, epoch, ranks, 16).files for epoch in range(4)}
    assert len(plans) > 1
    assert len({plan_epoch(rows, seed + more, 0, ranks, 16).files for more in range(4)}) > 1


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.integers(950, 1050), min_size=12, max_size=24, unique=True), seed=seeds)
def test_ranks_read_other_files_each_epoch_though_no_two_files_have_equal_rows(rows, seed):
    first = plan_epoch(rows, seed, 0, 2, 256)
    assume(first.steps * 256 - max(first.rows) >= 100)  # without room in a step no other split takes so few
    shares = {frozenset(plan_epoch(rows, seed, epoch, 2, 256).files[0]) for epoch in range(6)}
    assert len(shares) > 1


def test_more_ranks_than_files():
    plan = plan_epoch([5, 0, 3], seed=1, epoch=0, ranks=4, batch_size=2)
    assert sorted(plan.files) == [(), (), (0,), (2,)]
    assert sorted(plan.rows) == [0, 0, 3, 5]
    assert plan.steps == 3


@given(files=st.integers(0, 3), ranks=ranks_)
@settings(deadline=None)
def test_no_rows_take_no_steps(files, ranks):
    plan = plan_epoch([0] * files, 0, 0, ranks, 8)
    assert plan.steps == 0
    assert not any(plan.files)
