"""What a rank measures after each pass: the test samples, and what was kept back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import horovod.tensorflow as hvd

from dssm.errors import UserError
from dssm.manifest import check_columns, read_manifest
from dssm.model.two_tower import TwoTowerModel
from dssm.stream.batches import Batch, Prefetched, Reading
from dssm.stream.plan import Leg, plan_epoch
from dssm.train.inputs import Inputs
from dssm.train.measure import Predict, make_predict, measure, metric_names
from dssm.train.rank_watchdog import expect_progress
from dssm.train.validation import CatalogueRecall


@dataclass(frozen=True)
class Measures:
    """A model and the data that it is measured on. Every rank has a part, and all get the same numbers."""

    inputs: Inputs
    model: TwoTowerModel
    predict: Predict
    recall: CatalogueRecall | None
    _traced: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, inputs: Inputs, model: TwoTowerModel) -> Measures:
        """Raises: UserError where this model has no metric as train.validation asks for."""
        return cls(inputs, model, make_predict(model), _catalogue_recall(inputs, model))

    def test(self) -> dict[str, float]:
        """Measures the test samples of all ranks, as one process does: see `measure`."""
        test, train = self.inputs.test, self.inputs.settings.train
        if not test.rows:
            return measure(self.model, self.predict, iter(()), train.threshold)
        files = [file.rows for file in test.files]
        plan = plan_epoch(files, self.inputs.settings.seed, 0, hvd.size(), train.batch_size)
        return measure(self.model, self.predict, self._watched("test", Reading(plan)), train.threshold)

    def validation(self) -> dict[str, float] | None:
        """Measures the rows that were kept back; None where there are none."""
        train, kept = self.inputs.settings.train, self.inputs.passes.validation
        if train.validation is None or kept is None:
            return None
        leg = Leg(hvd.size(), train.batch_size, 0)
        reading = dataclasses.replace(kept.reading(self.inputs.settings.seed, [leg]), order=None)
        found = measure(self.model, self.predict, self._watched("train", reading), train.threshold)
        if self.recall is not None and train.validation.cutoff is not None:
            found[train.validation.metric] = self.recall(self._watched("train", reading), train.validation.cutoff)
        return found

    def shown(self, measured: dict[str, float] | None) -> str | None:
        """Returns what the progress says of the validation."""
        chosen = self.inputs.settings.train.validation
        if chosen is None or measured is None or chosen.metric == "loss":
            return None
        return f"{chosen.metric} {measured[chosen.metric]:.4f}"

    def _watched(self, part: str, reading: Reading) -> Iterator[Batch]:
        batches: Prefetched = self.inputs.batches(part, reading)
        if part not in self._traced:  # the first batch traces the model over its columns
            self._traced.add(part)
            expect_progress(self.inputs.settings, self.inputs.settings.train.start_timeout_s)
        for batch in batches:
            yield batch
            expect_progress(self.inputs.settings)


def _catalogue_recall(inputs: Inputs, model: TwoTowerModel) -> CatalogueRecall | None:
    settings, folder = inputs.settings, inputs.paths.part("items")
    validation = settings.train.validation
    if validation is None:
        return None
    if validation.cutoff is None:
        if validation.metric not in (names := ["loss", *metric_names(model)]):
            raise UserError(
                f"train.validation.metric: {validation.metric} is none of this model's; "
                f"expected recall@K or one of {', '.join(names)}"
            )
        return None
    manifest = read_manifest(folder, "build_samples")
    check_columns(manifest, inputs.item_columns, folder)
    return CatalogueRecall(
        model, folder, manifest, inputs.item_columns, settings.train.batch_size,
        settings.train.staging, lambda: expect_progress(settings),
    )  # fmt: skip
