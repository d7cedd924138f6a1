from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dssm.model.optimizers import build_optimizer
from dssm.model.optimizers.gradients import add_l2, clip_gradients
from dssm.model.optimizers.lazy_adam import LazyAdam
from dssm.model.optimizers.rowwise_adagrad import RowWiseAdagrad
from dssm.model.optimizers.schedules import build as build_schedule
from dssm.sections import optimizers as sections
from tests.model import optimizer_reference as reference

ROWS, DIM, STEPS = 7, 3, 20
KINDS = [
    sections.Adam(),
    sections.Adam(beta_1=0.5, beta_2=0.9, epsilon=1e-3),
    sections.LazyAdam(),
    sections.LazyAdam(beta_1=0.5, beta_2=0.9, epsilon=1e-3),
    sections.Adagrad(),
    sections.Adagrad(initial_accumulator=0.0, epsilon=1e-2),
    sections.RowWiseAdagrad(),
    sections.RowWiseAdagrad(initial_accumulator=0.0, epsilon=1e-2),
    sections.Sgd(),
    sections.Sgd(momentum=0.9),
    sections.Sgd(momentum=0.9, nesterov=True),
    sections.RmsProp(),
    sections.RmsProp(decay=0.5, momentum=0.9, epsilon=1e-3),
]
ONE_OF_EACH = [
    sections.Adam(), sections.LazyAdam(), sections.Adagrad(), sections.RowWiseAdagrad(), sections.Sgd(),
    sections.Sgd(momentum=0.9), sections.RmsProp(), sections.RmsProp(momentum=0.9),
]  # fmt: skip
TOUCHED_ONLY = [sections.LazyAdam(), sections.Adagrad(), sections.RowWiseAdagrad(), sections.Sgd()]


def _name(settings: sections.OptimizerKind) -> str:
    changed = settings.changed(*type(settings).model_fields)
    return "-".join([settings.kind, *(name for name in changed if name != "kind")])


@dataclass
class Trained:
    """A table and a kernel, the optimizer of both, and its compiled step."""

    table: tf.Variable
    kernel: tf.Variable
    optimizer: tf.keras.optimizers.Optimizer

    @classmethod
    def new(cls, settings: sections.OptimizerKind, rate: object = 0.05, seed: int = 0, dim: int = DIM) -> Trained:
        drawn = np.random.default_rng(seed)
        table = tf.Variable(drawn.normal(size=(ROWS, dim)).astype(np.float32), name="table")
        kernel = tf.Variable(drawn.normal(size=(2, 4)).astype(np.float32), name="kernel")
        return cls(table, kernel, build_optimizer(settings, rate, [table, kernel], tables=[table]))

    def __post_init__(self) -> None:
        def sparse(values: tf.Tensor, rows: tf.Tensor, slope: tf.Tensor) -> None:
            shape = tf.constant(tuple(self.table.shape))
            pairs = [(tf.IndexedSlices(values, rows, shape), self.table), (slope, self.kernel)]
            self.optimizer.apply_gradients(pairs)

        width = self.table.shape[1]
        self.sparse = tf.function(
            sparse,
            input_signature=[
                tf.TensorSpec((None, width)), tf.TensorSpec((None,), tf.int64), tf.TensorSpec(self.kernel.shape)
            ],
        )  # fmt: skip
        self.dense = tf.function(
            lambda slope, other: self.optimizer.apply_gradients([(slope, self.table), (other, self.kernel)]),
            input_signature=[tf.TensorSpec(self.table.shape), tf.TensorSpec(self.kernel.shape)],
        )

    def run(self, steps: list[Step], sparse: bool = True) -> None:
        for step in steps:
            if sparse:
                self.sparse(step.of_table[step.rows], step.rows, step.of_kernel)
            else:
                self.dense(step.of_table, step.of_kernel)


@dataclass
class Step:
    rows: np.ndarray  # unique, in any order
    of_table: np.ndarray  # dense; 0 in the other rows
    of_kernel: np.ndarray


def _steps(number: int = STEPS, every_row: bool = False, dim: int = DIM, seed: int = 1) -> list[Step]:
    """Draws what batches look up and the gradients; the third batch looks nothing up, unless `every_row`."""
    drawn = np.random.default_rng(seed)
    steps = []
    for number_of_step in range(number):
        size = ROWS if every_row else 0 if number_of_step == 2 else drawn.integers(1, ROWS)
        rows = drawn.permutation(ROWS)[:size]
        of_table = np.zeros((ROWS, dim), np.float32)
        of_table[rows] = drawn.normal(size=(size, dim))
        steps.append(Step(rows, of_table, drawn.normal(size=(2, 4)).astype(np.float32)))
    return steps


def _expected(
    settings: sections.OptimizerKind, value: np.ndarray, slopes: list[np.ndarray], rates: list[float],
    rows: list[np.ndarray] | None,
) -> np.ndarray:  # fmt: skip
    """The reference's last value; `rows` of each step are given for a table, None for another variable."""
    options = settings.model_dump(exclude={"kind", "initial_accumulator"})
    match settings:
        case sections.LazyAdam():
            if rows is not None:
                return reference.lazy_adam(value, slopes, rates, rows, **options)
            return reference.adam(value, slopes, rates, **options)
        case sections.Adam():
            return reference.adam(value, slopes, rates, **options)
        case sections.RowWiseAdagrad() if rows is not None:
            return reference.rowwise_adagrad(value, slopes, rates, initial=settings.initial_accumulator, **options)
        case sections.Adagrad():
            return reference.adagrad(value, slopes, rates, initial=settings.initial_accumulator, **options)
        case sections.Sgd():
            return reference.sgd(value, slopes, rates, **options)
        case sections.RmsProp():
            return reference.rmsprop(value, slopes, rates, **options)
    raise AssertionError(settings)


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("settings", KINDS, ids=_name)
def test_twenty_steps_are_those_of_the_paper(settings: sections.OptimizerKind, sparse: bool):
    trained, steps = Trained.new(settings), _steps()
    table, kernel = trained.table.numpy(), trained.kernel.numpy()
    trained.run(steps, sparse)

    # Lazy or not is the gradient's: a dense one moves all rows.
    rows = [step.rows if sparse else np.arange(ROWS) for step in steps]
    rates = [0.05] * STEPS
    of_table = _expected(settings, table, [step.of_table for step in steps], rates, rows)
    of_kernel = _expected(settings, kernel, [step.of_kernel for step in steps], rates, None)
    np.testing.assert_allclose(trained.table, of_table, rtol=2e-5, atol=5e-6)
    np.testing.assert_allclose(trained.kernel, of_kernel, rtol=2e-5, atol=5e-6)
    assert trained.optimizer.iterations.numpy() == STEPS


@pytest.mark.parametrize("settings", [sections.LazyAdam(), sections.RowWiseAdagrad()], ids=_name)
def test_a_schedule_gives_each_steps_rate(settings: sections.OptimizerKind):
    schedule = build_schedule(sections.Linear(warmup_steps=5), 0.05, STEPS)
    trained, steps = Trained.new(settings, schedule), _steps()
    table = trained.table.numpy()
    trained.run(steps)
    rates = [0.05 * (t / 5 if t < 5 else (STEPS - 1 - t) / (STEPS - 1 - 5)) for t in range(STEPS)]
    expected = _expected(settings, table, [s.of_table for s in steps], rates, [s.rows for s in steps])
    np.testing.assert_allclose(trained.table, expected, rtol=2e-5, atol=5e-6)


def test_lazy_adam_is_adam_where_every_step_touches_every_row():
    lazy, eager, steps = Trained.new(sections.LazyAdam()), Trained.new(sections.Adam()), _steps(every_row=True)
    lazy.run(steps)
    eager.run(steps, sparse=False)
    np.testing.assert_allclose(lazy.table, eager.table, rtol=1e-6)
    for own, other in zip(lazy.optimizer.variables, eager.optimizer.variables, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6)


def test_rowwise_adagrad_of_width_1_is_adagrad():
    by_row, by_number = (Trained.new(s, dim=1) for s in (sections.RowWiseAdagrad(), sections.Adagrad()))
    for trained in (by_row, by_number):
        trained.run(_steps(dim=1))
    np.testing.assert_allclose(by_row.table, by_number.table, rtol=1e-6)
    np.testing.assert_array_equal(by_row.kernel, by_number.kernel)


def test_rowwise_adagrad_treats_a_tables_dense_gradient_by_row():
    sparse, dense, steps = Trained.new(sections.RowWiseAdagrad()), Trained.new(sections.RowWiseAdagrad()), _steps()
    sparse.run(steps)
    dense.run(steps, sparse=False)
    np.testing.assert_allclose(sparse.table, dense.table, rtol=1e-6)
    for own, other in zip(sparse.optimizer.variables, dense.optimizer.variables, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6)


def test_rowwise_adagrad_keeps_one_number_a_row_of_the_tables_alone():
    trained = Trained.new(sections.RowWiseAdagrad())
    assert [tuple(v.shape) for v in trained.optimizer.variables] == [(), (ROWS,), (2, 4)]
    np.testing.assert_allclose(trained.optimizer.variables[1], np.full(ROWS, 0.1), rtol=1e-6)


def test_rowwise_adagrad_is_adagrad_for_a_matrix_that_is_no_table():
    table = tf.Variable(tf.ones((ROWS, DIM)))
    optimizer = build_optimizer(sections.RowWiseAdagrad(), 0.05, [table], tables=[])
    slope = tf.IndexedSlices(tf.constant([[1.0, 2.0, 0.0]]), tf.constant([4]))
    optimizer.apply_gradients([(slope, table)])
    expected = np.ones((ROWS, DIM))
    expected[4] -= 0.05 * np.array([1.0, 2.0, 0.0]) / np.sqrt(np.array([1.1, 4.1, 0.1]) + 1e-7)
    np.testing.assert_allclose(table, expected, rtol=1e-6)


def test_tables_are_matrices_and_are_named_before_the_state_is_made():
    vector, matrix = tf.Variable(tf.zeros(3), name="bias"), tf.Variable(tf.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"bias:0 has the shape \(3,\); expected \(rows, dim\)"):
        RowWiseAdagrad().row_wise([vector])
    optimizer = RowWiseAdagrad()
    optimizer.build([matrix])
    with pytest.raises(ValueError, match="before build"):
        optimizer.row_wise([matrix])


@pytest.mark.parametrize("settings", ONE_OF_EACH, ids=_name)
def test_what_becomes_of_rows_that_no_batch_looks_up(settings: sections.OptimizerKind):
    """Row 0 is touched once, and then not; row 1 never."""
    trained, steps = Trained.new(settings), _steps()
    rows = [np.array([0, 3]), *[np.setdiff1d(step.rows, [0, 1]) for step in steps[1:]]]
    for step, kept in zip(steps, rows, strict=True):
        step.rows = kept
    before = trained.table.numpy()
    trained.run(steps[:1])
    once = trained.table.numpy()
    state = [v.numpy() for v in trained.optimizer.variables if v.shape[:1] == ROWS]
    trained.run(steps[1:])
    after = trained.table.numpy()

    np.testing.assert_array_equal(after[1], before[1])
    assert (once[0] != before[0]).all()
    moves_on = settings.kind == "adam" or getattr(settings, "momentum", 0) > 0
    assert (after[0] == once[0]).all() == (not moves_on)
    stays = settings.kind in {"lazy_adam", "adagrad", "rowwise_adagrad"}
    for earlier, now in zip(state, [v for v in trained.optimizer.variables if v.shape[:1] == ROWS], strict=True):
        assert (earlier[0] == now.numpy()[0]).all() == stays


@pytest.mark.parametrize("settings", ONE_OF_EACH, ids=_name)
def test_slices_of_the_same_row_are_summed_first(settings: sections.OptimizerKind):
    merged, apart = Trained.new(settings), Trained.new(settings)
    kernel = np.zeros((2, 4), np.float32)
    for _ in range(2):
        merged.sparse([[4.0, 6.0, -1.0], [1.0, 1.0, 1.0]], [5, 2], kernel)
        apart.sparse([[1.0, 7.0, -1.0], [1.0, 1.0, 1.0], [3.0, -1.0, 0.0]], [5, 2, 5], kernel)
    np.testing.assert_allclose(merged.table, apart.table, rtol=1e-6)


@pytest.mark.parametrize("settings", ONE_OF_EACH, ids=_name)
def test_outside_of_a_graph_the_steps_are_the_same(settings: sections.OptimizerKind):
    compiled, eager, steps = Trained.new(settings), Trained.new(settings), _steps(3)
    compiled.run(steps)
    eager.sparse = eager.sparse.python_function
    for step in steps:
        eager.sparse(tf.constant(step.of_table[step.rows]), tf.constant(step.rows), tf.constant(step.of_kernel))
    np.testing.assert_allclose(compiled.table, eager.table, rtol=1e-6)
    np.testing.assert_allclose(compiled.kernel, eager.kernel, rtol=1e-6)


@pytest.mark.parametrize("settings", ONE_OF_EACH, ids=_name)
def test_variables_are_all_that_ranks_must_share(settings: sections.OptimizerKind):
    first, second, steps = Trained.new(settings), Trained.new(settings, seed=9), _steps()
    first.run(steps[:10])
    own = [first.table, first.kernel, *first.optimizer.variables]
    other = [second.table, second.kernel, *second.optimizer.variables]
    for source, target in zip(own, other, strict=True):
        target.assign(source)
    for trained in (first, second):
        trained.run(steps[10:])
    for source, target in zip(own, other, strict=True):
        np.testing.assert_array_equal(source, target)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ONE_OF_EACH, ids=_name)
def test_a_checkpoint_carries_the_training_on(settings: sections.OptimizerKind, tmp_path: Path):
    rate = build_schedule(sections.Cosine(warmup_steps=3), 0.05, STEPS)
    first, resumed, steps = Trained.new(settings, rate), Trained.new(settings, rate, seed=9), _steps()
    first.run(steps[:10])
    saved, fresh = (
        tf.train.Checkpoint(table=t.table, kernel=t.kernel, optimizer=t.optimizer) for t in (first, resumed)
    )
    fresh.read(saved.write(str(tmp_path / "checkpoint"))).assert_consumed()
    for trained in (first, resumed):
        trained.run(steps[10:])
    np.testing.assert_array_equal(first.table, resumed.table)
    np.testing.assert_array_equal(first.kernel, resumed.kernel)
    for own, other in zip(first.optimizer.variables, resumed.optimizer.variables, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("settings", KINDS, ids=_name)
def test_the_settings_come_back_from_the_optimizers_config(settings: sections.OptimizerKind):
    optimizer = settings.build(0.05)
    again = tf.keras.optimizers.deserialize(tf.keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    assert not again.get_config()["jit_compile"]


@pytest.mark.parametrize("settings", [sections.LazyAdam(), sections.RowWiseAdagrad()], ids=_name)
def test_a_table_of_a_mixed_precision_model_moves_in_float32(settings: sections.OptimizerKind):
    layer = tf.keras.layers.Embedding(ROWS, DIM, dtype=tf.keras.mixed_precision.Policy("mixed_bfloat16"))
    layer.build((None,))
    before = layer.embeddings.numpy()
    optimizer = build_optimizer(settings, 0.05, layer.trainable_variables, tables=[layer.embeddings])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(layer(tf.constant([2, 5, 2])), tf.float32) * tf.constant([1.0, 2.0, 4.0]))
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert isinstance(gradients[0], tf.IndexedSlices)
    optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))

    slope = np.zeros((ROWS, DIM), np.float32)
    slope[5], slope[2] = [1.0, 2.0, 4.0], [2.0, 4.0, 8.0]
    expected = _expected(settings, before, [slope], [0.05], [np.array([2, 5])])
    np.testing.assert_allclose(layer.embeddings.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert {v.dtype for v in optimizer.variables} == {tf.int64, tf.float32}


def _outputs_as_long_as_the_table(settings: sections.OptimizerKind) -> set[str]:
    """The kinds of ops of a step whose result has a number or more for each row of the table."""
    rows = 1009
    table = tf.Variable(tf.zeros((rows, DIM)))
    optimizer = build_optimizer(settings, 0.05, [table], tables=[table])

    @tf.function(input_signature=[tf.TensorSpec((None, DIM)), tf.TensorSpec((None,), tf.int64)])
    def step(values: tf.Tensor, indices: tf.Tensor) -> None:
        gradients = [tf.IndexedSlices(values, indices, tf.constant((rows, DIM)))]
        gradients = add_l2(gradients, [table], {table.ref(): 0.1}, [table])
        gradients = clip_gradients(sections.Clip(limit=1.0), gradients)
        optimizer.apply_gradients(zip(gradients, [table], strict=True))

    operations = step.get_concrete_function().graph.get_operations()
    return {op.type for op in operations for out in op.outputs if out.shape.rank and out.shape[0] == rows}


@pytest.mark.parametrize("settings", TOUCHED_ONLY, ids=_name)
def test_a_step_reads_the_rows_that_it_needs_and_never_the_table(settings: sections.OptimizerKind):
    assert _outputs_as_long_as_the_table(settings) == set()


def test_adam_reads_the_table():
    assert "ReadVariableOp" in _outputs_as_long_as_the_table(sections.Adam())


def test_kinds_of_their_own_are_what_the_settings_build():
    assert type(sections.LazyAdam().build(0.1)) is LazyAdam
    assert type(sections.RowWiseAdagrad().build(0.1)) is RowWiseAdagrad
    assert type(sections.Adam().build(0.1)) is tf.keras.optimizers.Adam
