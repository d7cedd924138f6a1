"""Checks of the model's and the training's settings that no section can make alone.

Each raises a UserError that names the key, what was found, and what would fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from dssm.errors import UserError, did_you_mean
from dssm.features import AnyFeature, DenseFeat, SparseFeat
from dssm.sections import LossKind, Model, Samples, TowerKind, Train, VectorTable
from dssm.sections.model import Dnn, MultiObjective, Parallel

SIDES = ("user", "item")


def check_model(
    model: Model, features: Mapping[str, AnyFeature], vectors: Mapping[str, VectorTable], targets: Collection[str]
) -> None:
    """Checks the references of towers to features and of objectives to labels."""
    of_sides = {f"model.{side}_tower": {f.name: f for f in features.values() if f.side == side} for side in SIDES}
    for place, tower in towers_of(model):
        (own,) = (side for key, side in of_sides.items() if place.startswith(key))
        for name in tower.residual if isinstance(tower, Dnn) else ():
            widths = {feature: encoded_width(given, vectors) for feature, given in own.items()}
            check_residual(f"{place}.residual", name, widths, model.vector_dim)
    for name, objective in model.objectives.items():
        if objective.label != "label" and objective.label not in targets:
            raise UserError(
                f"model.objectives.{name}.label: no source has '{objective.label}' in its targets"
                + did_you_mean(objective.label, ["label", *targets])
            )
        if name in targets and objective.label == "label" and name != "label":
            raise UserError(
                f"model.objectives.{name}: learns the sources' own label, though '{name}' is one of their targets; set "
                f"label: {name}, or give the objective another name"
            )


def towers_of(model: Model) -> Iterator[tuple[str, TowerKind]]:
    """Yields both towers and their parts, each with its key."""
    for side in SIDES:
        yield from _towers(f"model.{side}_tower", getattr(model, f"{side}_tower"))


def _towers(place: str, tower: TowerKind) -> Iterator[tuple[str, TowerKind]]:
    """Yields a tower and its parts, each with its key."""
    yield place, tower
    if isinstance(tower, Parallel):
        for name, channel in tower.channels.items():
            yield from _towers(f"{place}.channels.{name}", channel)
    if isinstance(tower, MultiObjective):
        yield from _towers(f"{place}.shared", tower.shared)
        yield from _towers(f"{place}.head", tower.head)


def check_residual(key: str, name: str, widths: Mapping[str, int], vector_dim: int) -> None:
    """Checks that the feature `name` can be added to a side's vector; towers ask again, for those inside a plugin's.

    Args: widths: of the side's features, as they come to the tower.
    """
    if name not in widths:
        raise UserError(f"{key}: this side has no feature '{name}'" + did_you_mean(name, widths))
    if widths[name] != vector_dim:
        raise UserError(
            f"{key}: '{name}' is {widths[name]} wide, and is added to a vector of model.vector_dim {vector_dim}; "
            "expected the same width"
        )


def encoded_width(feature: AnyFeature, vectors: Mapping[str, VectorTable]) -> int:
    """Returns the numbers that a feature gives to its tower."""
    if isinstance(feature, DenseFeat):
        if feature.pre_embed is None:
            return 1
        return feature.projection or vectors[feature.pre_embed].width
    return feature.dim if isinstance(feature, SparseFeat) else feature.encoder.width(feature.dim)


def check_losses(model: Model, train: Train, samples: Samples, graded: bool) -> None:
    """Checks that the samples hold what the losses compare a row with, and no negatives that none of them reads.

    Args: graded: whether the sources' own label may differ between positives.
    """
    takers = [key for key, loss, _ in _losses(model, train) if loss.takes_sampled]
    takers += ["model.scorer"] if model.scorer is not None else []
    if samples.train_rows == "all" and samples.unclicked_weight == 0:
        raise UserError(
            "samples.unclicked_weight: 0 leaves only positives that weigh, with train_rows: all; expected a weight "
            "above 0, or train_rows: positives without that weight"
        )
    for key, loss, label in _losses(model, train):
        _check_compared(key, loss, train, samples)
        if samples.train_rows == "positives":
            _check_positives_suffice(
                key, loss, samples, of_positives=label != "label" or (graded and not loss.is_log_odds)
            )
    _check_shares(model, train)
    _check_objectives_differ(model, train)
    if samples.negatives and not takers:
        known = ", ".join(_kinds_with("reads_sampled", "takes_sampled"))
        raise UserError(
            f"samples.negatives: train.loss {train.loss.kind} does not read them; expected one of {known}, a "
            "model.scorer, or no negatives"
        )
    if model.scorer is not None and samples.train_rows == "positives" and not samples.weighs_negatives:
        raise UserError(
            "model.scorer: learns to tell positives from others, and there are only positives; expected "
            f"samples.train_rows: all, or {_negatives_that_count(samples)}"
        )
    if model.score_bias and not any(loss.is_pointwise for _, loss, _ in _losses(model, train)):
        known = " or ".join(_kinds_with("is_pointwise", "rating"))
        raise UserError(
            f"model.score_bias: goes with a loss of each row's own score, found {train.loss.kind}; remove it, or set "
            f"{known}"
        )


def _check_compared(key: str, loss: LossKind, train: Train, samples: Samples) -> None:
    """Checks that a loss that compares a row with others, or with its negatives, finds one to compare it with."""
    if loss.reads_sampled and not samples.negatives:
        raise UserError(f"{key}: {loss.kind} compares a positive with samples.negatives; name a kind of them there")
    if loss.reads_sampled and not samples.weighs_negatives:
        raise UserError(
            f"samples.negatives: all have weight: 0, and {loss.kind} of {key} compares a positive with those of a "
            "weight alone; set one above 0"
        )
    rows = train.batch_size * (train.most_ranks if loss.joins_ranks else 1)
    if loss.reads_candidates and not loss.catalogue_items and rows == 1:
        raise UserError(
            f"train.batch_size: 1 {'of one rank' if loss.joins_ranks else 'with candidates: rank'} leaves {loss.kind} "
            f"of {key} no candidate but a row's own item, and nothing is learned; expected 2 or more"
            + (", or more train.ranks" if loss.joins_ranks else "")
        )


def _check_positives_suffice(key: str, loss: LossKind, samples: Samples, of_positives: bool) -> None:
    """Checks that a loss learns something of rows that are positives by the sources' own label, and of negatives.

    Args: of_positives: whether what it learns may differ between them.
    """
    one_label = not of_positives and not (loss.reads_candidates or (loss.takes_sampled and samples.weighs_negatives))
    if loss.is_log_odds and one_label:
        raise UserError(
            f"samples.train_rows: 'positives' leaves {loss.kind} without negatives; expected 'all', "
            f"{f'{_negatives_that_count(samples)}, ' if loss.takes_sampled else ''}or train.loss: in_batch_softmax"
        )
    if loss.rating is not None and one_label:
        raise UserError(
            f"samples.train_rows: 'positives' leaves {loss.kind} rows whose label is 1, the sources' own; expected "
            "'all', a sources.X.label that is a rating, or an objective whose label is one of the sources' targets"
        )
    if loss.draws_all_rows:
        raise UserError(
            f"{key}.impression_weight: weighs rows without a positive label, and samples.train_rows is positives; "
            "set that to all, or remove the weight"
        )


def _negatives_that_count(samples: Samples) -> str:
    return "samples.negatives with a weight above 0" if samples.negatives else "samples.negatives"


def _kinds_with(*properties: str) -> list[str]:
    """Returns the losses that have any of these properties, with some of their settings.

    Told by what a class says other than LossKind: a loss whose settings lack a default has no instance to ask.
    """
    return [
        kind
        for kind, made in LossKind.choices.items()
        if any(getattr(made, name) is not getattr(LossKind, name) for name in properties)
    ]


def _check_shares(model: Model, train: Train) -> None:
    """Checks that a loss that reads items' shares, as with logq: frequency, reads those of the positives it compares.

    An item that has none of the sources' own has q = 0, and as one of another objective's positives would outweigh
    all others by 1e9. Where every row is a candidate (impression_weight), rows whose other label is not known are none,
    and yet are counted in the shares.
    """
    for name, objective in model.all_objectives.items():
        loss = objective.loss or train.loss
        if not loss.reads_shares or objective.label == "label":
            continue
        if "logq" in type(loss).model_fields:
            setting, what, fix = ".logq", "frequency", "set streaming, batch or off"
        else:
            setting, what, fix = "", loss.kind, "set another loss"
        rows = "all rows, known to an objective or not," if loss.draws_all_rows else "the sources' own label,"
        counted = f"{what} counts the items of {rows} but"
        raise UserError(
            f"train.loss{setting}: {counted} the label of model.objectives.{name} is {objective.label}; {fix}, or give "
            "that objective a loss of its own"
            if objective.loss is None
            else f"model.objectives.{name}.loss{setting}: {counted} the objective's label is {objective.label}; {fix}"
        )


def _check_objectives_differ(model: Model, train: Train) -> None:
    """Checks that no two objectives learn the same."""
    known: list[tuple[str, str, LossKind]] = []
    for name, objective in model.all_objectives.items():
        loss = objective.loss or train.loss
        for other, label, of_other in known:
            if (label, of_other) == (objective.label, loss):
                raise UserError(
                    f"model.objectives.{name}: label '{label}' and loss {loss.kind} are those of "
                    f"model.objectives.{other}, and both would learn the same task, whatever their weights; set "
                    "another label or loss, or remove one of the two"
                )
        known.append((name, objective.label, loss))


def _losses(model: Model, train: Train) -> Iterator[tuple[str, LossKind, str]]:
    """Yields the loss of each objective, with its key and the label that it learns."""
    for name, objective in model.all_objectives.items():
        if objective.loss is None:
            yield "train.loss", train.loss, objective.label
        else:
            yield f"model.objectives.{name}.loss", objective.loss, objective.label


def check_launch(train: Train) -> None:
    """Checks the ways to start a training: what one needs, and what another would not heed."""
    if train.launch == "single" and train.ranks != 1:
        raise UserError(
            f"train.ranks: {train.ranks} ranks with launch: single; expected 1, or launch: spark or horovodrun"
        )
    if train.hosts is not None and (train.launch != "horovodrun" or train.elastic is not None):
        raise UserError(
            f"train.hosts: '{train.hosts}' with launch: {train.launch}{' and train.elastic' if train.elastic else ''}; "
            "remove it, or set launch: horovodrun"
            + (" without train.elastic, whose hosts are those of elastic.hosts_script" if train.elastic else "")
        )
    elastic = train.elasticity
    if elastic is None:
        return
    if train.launch not in ("horovodrun", "spark-elastic"):
        raise UserError(
            f"train.elastic: with launch: {train.launch}; remove it, or set launch: spark-elastic or horovodrun"
        )
    if (elastic.hosts_script is None) != (train.launch == "spark-elastic"):
        raise UserError(
            "train.elastic.hosts_script: horovodrun learns the hosts of the moment from it; expected a program that "
            "prints host:slots a line"
            if elastic.hosts_script is None
            else "train.elastic.hosts_script: with launch: spark-elastic, whose hosts are Spark's executors; remove it"
        )
    if not elastic.min_ranks <= train.ranks <= train.most_ranks:
        raise UserError(
            f"train.ranks: {train.ranks}, but train.elastic allows {elastic.min_ranks} to "
            f"{train.most_ranks}; expected a number between them to start with"
        )


def check_placement(model: Model, train: Train) -> None:
    """Checks that the ranks that hold the rows of sharded tables are there from start to end, and asked together."""
    validation = train.validation
    if model.embedding.placement == "sharded" and validation is not None and validation.cutoff is not None:
        raise UserError(
            f"train.validation.metric: {validation.metric} with model.embedding.placement: sharded, whose rows are "
            "fetched by batches of samples alone; expected auc, log_loss, mse, another metric of rows, or loss"
        )
    if model.embedding.placement == "sharded" and train.elasticity is not None:
        raise UserError(
            "model.embedding.placement: sharded, but train.elastic goes on without a lost rank, whose rows would be "
            "lost with it; remove elastic (a lost rank then ends the job, and the same command resumes from the last "
            "checkpoint, at any number of ranks), or set placement: replicated"
        )
