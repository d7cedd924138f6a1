"""Settings of the model and its training: choices by kind, what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dssm.config import Settings
from dssm.sections.losses import InBatchSoftmax, LossKind, SampledSoftmax
from dssm.sections.model import Dnn, Senet
from tests.settings_files import changed, faults, load

LIKED = {"label": "1", "targets": {"like": "liked"}}
HEADS = {"kind": "multi_objective", "shared": {"layers": [8]}, "head": {"layers": []}}
CHANNELS, CHANNELS_OF_HEADS = (
    {f"{side}_tower": {"kind": "parallel", "channels": {"deep": deep, "wide": "fm"}} for side in ("user", "item")}
    for deep in ({"layers": [8]}, HEADS)
)
NEGATIVES = {"any": {"kind": "uniform"}}


def test_a_kind_is_chosen_by_its_name_alone_or_with_its_options(tmp_path: Path):
    settings = load(
        tmp_path,
        changed(
            model__user_tower={"kind": "senet", "layers": [8, 4], "reduction": 2},
            train__loss="in_batch_softmax",
            train__optimizer={"kind": "sgd", "momentum": 0.9},
        ),
    )
    assert isinstance(settings.model.user_tower, Senet)
    assert (settings.model.user_tower.layers, settings.model.user_tower.reduction) == ((8, 4), 2)
    assert settings.model.item_tower == Dnn()
    assert settings.train.loss == InBatchSoftmax()
    assert settings.train.optimizer.kind == "sgd"


def test_every_choice_goes_through_json(tmp_path: Path):
    tower = {"kind": "parallel", "channels": {"deep": {"activation": "dice"}, "fm": "fm", "cross": {"kind": "cross"}}}
    settings = load(
        tmp_path,
        changed(
            sources__feed__targets={"like": "liked"},
            samples__negatives=NEGATIVES,
            features__all_topic_fav_7__encoder={"kind": "transformer", "heads": 4},
            model={
                "user_tower": {**HEADS, "head": tower},
                "item_tower": {**HEADS, "head": tower},
                "objectives": {"click": {"loss": "sampled_softmax"}, "like": {"label": "like", "loss": "regression"}},
                "objective_weights": "uncertainty",
                "scorer": {"kind": "shallow"},
                "score_bias": True,
            },
            train={
                "loss": {"kind": "mixed_negative", "logq": "streaming", "frequency": {"buckets": 9}},
                "optimizer": "rowwise_adagrad",
                "schedule": {"kind": "cosine", "warmup_steps": 3},
                "clip": {"limit": 1},
                "recent": {"days": 1},
            },
        ),
    )
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert isinstance(settings.model.all_objectives["click"].loss, SampledSoftmax)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown tower": (
        {"model__user_tower": {"kind": "senat"}},
        "model.user_tower: kind: found 'senat' (did you mean 'senet'?)",
    ),
    "an unknown key of a loss": (
        {"train__loss": {"kind": "weighted_bce", "posweight": 2}},
        "train.loss: unknown key 'posweight' (did you mean 'positive_weight'?)",
    ),
    "an option of another loss": (
        {"train__loss": {"positive_weight": 2}},
        "train.loss: 'positive_weight' goes with kind: weighted_bce; remove it, or set that",
    ),
    "a layer without width, deep inside": (
        {"model__user_tower": {"kind": "parallel", "channels": {"deep": {"layers": [8, 0]}}}},
        "model.user_tower.channels.deep.layers.1: found 0: input should be greater than 0",
    ),
    "the strength of no correction": (
        {"train__loss": {"logq": "off", "logq_strength": 0.5}},
        "train.loss: logq_strength: 0.5 with logq: off; remove it, or set logq: frequency, batch or streaming",
    ),
    "a streaming frequency that is not read": (
        {"train__loss": {"frequency": {"buckets": 9}}},
        "train.loss: frequency: goes with logq: streaming, found logq: frequency; remove it, or set that",
    ),
    "too few activations": (
        {"model__user_tower": {"layers": [8, 4], "activation": ["relu"]}},
        "model.user_tower: activation: found 1 for 2 layers; expected one, or one for each",
    ),
    "an activation of no layer": (
        {"model__user_tower": {"layers": [], "activation": "tanh"}},
        "model.user_tower: activation: goes with hidden layers, found layers: []; remove it, or set their widths",
    ),
    "a batch norm of no layer": (
        {"model__user_tower": {"kind": "senet", "layers": [], "batch_norm": True}},
        "model.user_tower: batch_norm: goes with hidden layers, found layers: []; remove it, or set their widths",
    ),
    "a dropout of no layer": (
        {"model__item_tower": {"kind": "parallel", "channels": {"deep": {"layers": [], "dropout": 0.1}}}},
        "model.item_tower.channels.deep: dropout: goes with hidden layers, found layers: []; remove it, or set their "
        "widths",
    ),
    "towers of different width": (
        {
            "model__user_tower": {"kind": "fm", "dim": 8},
            "model__item_tower": {"kind": "fm", "dim": 6},
        },
        "model: user_tower makes vectors 8 wide, item_tower 6; expected the same",
    ),
    "channels on one side": (
        {"model__user_tower": {"kind": "parallel", "channels": {"deep": "dnn"}}},
        "model: user_tower is parallel, item_tower is dnn; expected parallel for both or for none",
    ),
    "channels of other names": (
        {
            "model__user_tower": {"kind": "parallel", "channels": {"deep": "dnn", "fm": "fm"}},
            "model__item_tower": {"kind": "parallel", "channels": {"deep": "dnn", "cross": "cross"}},
        },
        "model: user_tower.channels: found deep, fm; item_tower.channels has deep, cross: expected the same names in "
        "the same order",
    ),
    "towers for objectives without any": (
        {"model__user_tower": HEADS},
        "model: objectives: a multi_objective tower needs them; name at least one",
    ),
    "objectives without a tower for them": (
        {"model__objectives": {"click": {}, "other": {}}},
        "model: objectives: several go with a tower of kind multi_objective; set it, or name one alone",
    ),
    "objectives without a channel for them": (
        {"model": {**CHANNELS, "objectives": {"click": {}, "other": {}}}},
        "model: objectives: several go with a tower of kind multi_objective; set it, or name one alone",
    ),
    "a channel for objectives without any": (
        {"model": CHANNELS_OF_HEADS},
        "model: objectives: a multi_objective tower needs them; name at least one",
    ),
    "an objective with the scorer's name": (
        {"model__objectives": {"scorer": {}}},
        "model: objectives.scorer: the name is the scorer's among the losses; expected another",
    ),
    "an objective with no label": (
        {
            "sources__feed__targets": {"like": "liked"},
            "model": {"user_tower": HEADS, "item_tower": HEADS, "objectives": {"like": {"label": "liek"}}},
        },
        "model.objectives.like.label: no source has 'liek' in its targets (did you mean 'like'?)",
    ),
    "an objective named after a target that it does not learn": (
        {
            "sources__feed__targets": {"like": "liked"},
            "model": {
                "user_tower": HEADS,
                "item_tower": HEADS,
                "objectives": {"click": {}, "like": {"loss": {"kind": "bpr", "negatives": "batch"}}},
            },
        },
        "model.objectives.like: learns the sources' own label, though 'like' is one of their targets; "
        "set label: like, or give the objective another name",
    ),
    "the main label's shares for another label": (
        {
            "sources__feed__targets": {"like": "liked"},
            "model__objectives": {"liked": {"label": "like", "loss": {"kind": "mixed_negative"}}},
        },
        "model.objectives.liked.loss.logq: frequency counts the items of the sources' own label, but the objective's "
        "label is like; set streaming, batch or off",
    ),
    "all rows' shares for another label": (
        {
            "sources__feed__targets": {"like": "liked"},
            "samples__train_rows": "all",
            "model__objectives": {"liked": {"label": "like", "loss": {"impression_weight": 0.5}}},
        },
        "model.objectives.liked.loss.logq: frequency counts the items of all rows, known to an objective or not, but "
        "the objective's label is like; set streaming, batch or off",
    ),
    "the main label's shares for another label, by train.loss": (
        {"sources__feed__targets": {"like": "liked"}, "model__objectives": {"liked": {"label": "like"}}},
        "train.loss.logq: frequency counts the items of the sources' own label, but the label of "
        "model.objectives.liked is like; set streaming, batch or off, or give that objective a loss of its own",
    ),
    "objectives that learn the same": (
        {
            "model": {
                "user_tower": HEADS,
                "item_tower": HEADS,
                "objectives": {"click": {}, "like": {"loss": {"logq": "frequency"}, "weight": 2.0}},
            },
        },
        "model.objectives.like: label 'label' and loss in_batch_softmax are those of model.objectives.click, and both "
        "would learn the same task, whatever their weights; set another label or loss, or remove one of the two",
    ),
    "learned weights of one objective": (
        {"model__objective_weights": "uncertainty"},
        "model: objective_weights: uncertainty weighs several objectives; name them, or set fixed",
    ),
    "a weight that a learned one cancels": (
        {
            "sources__feed__targets": {"like": "liked"},
            "model": {
                "user_tower": HEADS,
                "item_tower": HEADS,
                "objectives": {"click": {}, "like": {"label": "like", "loss": "hinge", "weight": 0.25}},
                "objective_weights": "uncertainty",
            },
        },
        "model: objectives.like.weight: found 0.25, but of e⁻ˢ w L + s the learned s settles at log(w L), which "
        "cancels it; remove it, or set objective_weights: fixed",
    ),
    "a residual of the other side": (
        {"model__item_tower": {"residual": ["client_id"]}},
        "model.item_tower.residual: this side has no feature 'client_id' (known: post_embed, topic_id)",
    ),
    "a residual of another width": (
        {"model": {"vector_dim": 7, "item_tower": {"residual": ["topic_id"]}}},
        "model.item_tower.residual: 'topic_id' is 16 wide, and is added to a vector of model.vector_dim 7; "
        "expected the same width",
    ),
    "an encoder on a scalar feature": (
        {"features__topic_id__encoder": "lstm"},
        "features.topic_id: 'encoder' goes with VarLenSparseFeat or TextFeat; remove it, or set that kind",
    ),
    "weights on a feature that has none": (
        {"features__clicked__weight_column": "weights"},
        "features.clicked: weight_column goes with weighted: true; set it",
    ),
    "a combiner beside an encoder": (
        {"features__all_topic_fav_7__encoder": "gru", "features__all_topic_fav_7__combiner": "max"},
        "features.all_topic_fav_7: combiner: max goes with encoder: pooling, found gru; remove one of the two",
    ),
    "heads that do not divide": (
        {"features__all_topic_fav_7__encoder": {"kind": "transformer", "heads": 3}},
        "features.all_topic_fav_7: encoder.heads: 3 do not divide dim: 16; set one that does",
    ),
    "an encoder that reads backwards": (
        {"features__all_topic_fav_7__encoder": "gru", "features__all_topic_fav_7__keep": "last"},
        "features.all_topic_fav_7: keep: last: the newest entry stands last, and encoder gru of order: newest_first "
        "would read the list backwards; set encoder.order: newest_last, or keep: first",
    ),
    "a loss of negatives without any": (
        {"train__loss": "sampled_softmax"},
        "train.loss: sampled_softmax compares a positive with samples.negatives; name a kind of them there",
    ),
    "weights of impressions that are left out": (
        {"train__loss": {"impression_weight": 0.5}},
        "train.loss.impression_weight: weighs rows without a positive label, and samples.train_rows is positives; set "
        "that to all, or remove the weight",
    ),
    "a scorer of positives alone": (
        {"model__scorer": {"kind": "logistic"}},
        "model.scorer: learns to tell positives from others, and there are only positives; expected "
        "samples.train_rows: all, or samples.negatives",
    ),
    "a bias that a softmax would not see": (
        {"model__score_bias": True},
        "model.score_bias: goes with a loss of each row's own score, found in_batch_softmax; remove it, or set "
        "weighted_bce or regression",
    ),
    "more recent days than there are": (
        {"train__recent": {"days": 99}},
        "train.recent.days: 99 are more than window.train_days, 30; expected at most those",
    ),
    "nesterov without momentum": (
        {"train__optimizer": {"kind": "sgd", "nesterov": True}},
        "train.optimizer: nesterov: goes with momentum above 0; set it, or remove nesterov",
    ),
    "a plugin that is not there": (
        {"plugins": ["no_such_module"]},
        "plugins: 'no_such_module' can't be imported (No module named 'no_such_module'); expected a module on "
        "Python's path",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_model_that_can_not_be_is_one_message(tmp_path: Path, fault: str):
    changes, message = FAULTS[fault]
    assert faults(tmp_path, changed(**changes)) == [message]


class Own(LossKind):
    """Of one's own: no settings are made of it without a margin. It has no name here, so that it is no choice."""

    margin: float
    log_odds: bool = False
    shares: bool = False

    @property
    def is_pointwise(self) -> bool:
        return self.log_odds

    @property
    def reads_shares(self) -> bool:
        return self.shares


class OwnOfNegatives(Own):
    @property
    def reads_sampled(self) -> bool:
        return True


@pytest.fixture
def _own_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, loss in (("own", Own), ("own_of_negatives", OwnOfNegatives)):
        monkeypatch.setitem(LossKind.choices, kind, loss)


OWN = {"kind": "own", "margin": 1}
OF_OWN = {
    "no one reads the negatives": (
        {"samples__negatives": NEGATIVES},
        "samples.negatives: train.loss in_batch_softmax does not read them; expected one of weighted_bce, "
        "sampled_softmax, hinge, bpr, own_of_negatives, a model.scorer, or no negatives",
    ),
    "no one reads a row's own score": (
        {"model__score_bias": True},
        "model.score_bias: goes with a loss of each row's own score, found in_batch_softmax; remove it, or set "
        "weighted_bce or regression or own or own_of_negatives",
    ),
    "log-odds of positives alone": (
        {"train__loss": {**OWN, "log_odds": True}},
        "samples.train_rows: 'positives' leaves own without negatives; expected 'all', or train.loss: in_batch_softmax",
    ),
    "the main label's shares for another label": (
        {
            "sources__feed__targets": {"like": "liked"},
            "model__objectives": {"liked": {"label": "like", "loss": {**OWN, "shares": True}}},
        },
        "model.objectives.liked.loss: own counts the items of the sources' own label, but the objective's label is "
        "like; set another loss",
    ),
}


@pytest.mark.usefixtures("_own_losses")
@pytest.mark.parametrize("fault", list(OF_OWN))
def test_a_loss_of_ones_own_is_checked_and_proposed_as_others_are(tmp_path: Path, fault: str):
    changes, message = OF_OWN[fault]
    assert faults(tmp_path, changed(**changes)) == [message]


@pytest.mark.usefixtures("_own_losses")
def test_a_loss_that_has_a_setting_without_a_default_spoils_no_others_settings(tmp_path: Path):
    assert load(tmp_path, changed()).train.loss == InBatchSoftmax()


def test_channels_of_heads_serve_several_objectives(tmp_path: Path):
    objectives = {"click": {}, "other": {"loss": {"logq": "batch"}}}  # of one label, by another loss
    settings = load(tmp_path, changed(model={**CHANNELS_OF_HEADS, "objectives": objectives}))
    assert list(settings.model.all_objectives) == ["click", "other"]
    one_side = {**CHANNELS, "user_tower": CHANNELS_OF_HEADS["user_tower"], "objectives": objectives}
    assert load(tmp_path, changed(model=one_side)).model.item_tower.width(64) == 128


@pytest.mark.parametrize(
    "loss",
    [
        {"logq": "streaming"},
        {"logq": "batch"},
        {"logq": "off"},
        {"impression_weight": 0.5, "logq": "streaming"},
        "weighted_bce",
    ],
)
def test_losses_of_another_label_that_count_its_own_rows(tmp_path: Path, loss: Any):
    described = changed(
        sources__feed__targets={"like": "liked"},
        samples__train_rows="all",
        model__objectives={"liked": {"label": "like", "loss": loss}},
    )
    assert load(tmp_path, described).model.all_objectives["liked"].label == "like"
