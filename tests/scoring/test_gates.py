from __future__ import annotations

from typing import Any, get_args

import pytest

from dssm.decisions import tally, unheard
from dssm.errors import GateError, UserError
from dssm.evaluation import MODEL
from dssm.published import NOT_FINITE, GateDecision, Pointer, PublishedManifest
from dssm.retrieval.rankers import Rankers
from dssm.scoring.gates import (
    BASELINE,
    DRIFT,
    FIRST,
    LAST,
    check,
    content_gates,
    recall_gates,
    refused,
    rollback_gates,
    unmeasured,
)
from dssm.sections import Gate, ItemTable
from tests.scoring.tables import MADE_AT, manifest_of

KEPT = {"model": {"recall@50": 0.4}, "popularity": {"recall@50": 0.1}, "ease": {"recall@50": 0.4, "recall@10": 0.2}}
PATH = "run/evaluation.json"
OLD = "dt=2024-01-07/version=old"


def decide(last: PublishedManifest | None = None, kept: Any = KEPT, **gate: Any) -> list[GateDecision]:
    return recall_gates(Gate(**gate), "item_table", kept, last, PATH)


def published_at(recall: float) -> PublishedManifest:
    return manifest_of(version="old", date="2024-01-07", metrics={"recall@50": recall})


# The model -----------------------------------------------------------------------------------------------


def test_a_model_above_the_baseline_passes() -> None:
    assert decide() == [
        GateDecision(gate=BASELINE, passed=True, found=0.4, limit=0.1),
        GateDecision(gate=LAST, passed=True, found=0.4, reason=FIRST),
    ]


def test_a_model_as_good_as_the_baseline_is_refused() -> None:
    assert refused(decide(better_than="ease")) == [
        "the model's recall@50 is 0.4000, ease has 0.4000 (item_table.gate.better_than: none publishes anyway)"
    ]


def test_every_baseline_of_an_evaluation_can_be_asked_for() -> None:
    made = Rankers("", items=0, recent=True, item_cf=("itemcf", "itemcf_impressions"), ease=True)
    asked = get_args(Gate.model_fields["better_than"].annotation)
    assert {*made.names} - {MODEL} == {*asked} - {"none"}
    for baseline in {*made.names} - {MODEL}:
        kept = {"model": {"recall@50": 0.4}, baseline: {"recall@50": 0.5}}
        assert refused(decide(kept=kept, better_than=baseline))[0].startswith("the model's recall@50 is 0.4000, ")


@pytest.mark.parametrize(("before", "passes"), [(0.3, True), (0.44, True), (0.445, False), (0.9, False)])
def test_a_model_below_the_last_by_more_than_the_margin_is_refused(before: float, passes: bool) -> None:
    """0.4 is 9.1 % below 0.44, and 10.1 % below 0.445."""
    decision = decide(published_at(before), margin=0.1)[1]
    assert decision.passed == passes
    assert decision.limit == pytest.approx(0.9 * before)
    if not passes:
        assert decision.reason == (
            f"the model's recall@50 is 0.4000, version old of 2024-01-07 had {before:.4f}: more than "
            "item_table.gate.margin 0.1 of it below"
        )
    assert [d.gate for d in decide(published_at(before), margin=None)] == [BASELINE]


def test_a_margin_of_nothing_lets_the_same_pass() -> None:
    assert decide(published_at(0.4), margin=0)[1].passed
    assert not decide(published_at(0.4001), margin=0)[1].passed


def test_a_last_version_that_was_not_evaluated() -> None:
    decision = decide(manifest_of(version="old", date="2024-01-07"))[1]
    reason = "not comparable: version old of 2024-01-07 has no recall@50"
    assert (decision.passed, decision.reason) == (True, reason)
    assert unheard([decision]) == [f"gate 'no worse than the last version' has not looked: {reason}"]


def test_without_a_baseline_the_last_still_counts() -> None:
    assert refused(decide(published_at(0.9), better_than="none"))


def test_what_was_not_measured_is_said() -> None:
    reason = "not measured: run/evaluation.json holds no evaluation of this model on these samples"
    (decision,) = decide(published_at(0.9), None, better_than="none")
    assert decision == GateDecision(gate=LAST, passed=True, reason=reason)
    assert unmeasured([decision]) == {LAST}
    assert unheard([decision]) == [f"gate 'no worse than the last version' has not looked: {reason}"]
    assert unheard([*decide(), *decide(published_at(0.4)), *decide(published_at(0.9))]) == []
    assert unmeasured(decide(published_at(0.4))) == set()
    assert decide(published_at(0.9), None, better_than="none", margin=None) == []


def test_what_the_evaluation_lacks() -> None:
    with pytest.raises(
        UserError, match=r"item_table.gate.better_than: run/evaluation.json has no 'itemcf'; expected one"
    ):
        decide(better_than="itemcf")
    with pytest.raises(UserError, match=r"item_table.gate.metric: run/evaluation.json has no 'recall@10'"):
        decide(metric="recall@10", better_than="ease")
    without = {"model": {"recall@10": 0.3}, "popularity": {}}
    with pytest.raises(UserError, match=r"item_table.gate.metric: run/evaluation.json has no 'recall@10'"):
        decide(kept=without, metric="recall@10")
    assert decide(kept={"model": {}}, better_than="none", margin=None) == []


# The rows ------------------------------------------------------------------------------------------------


def reasons(made: PublishedManifest, **section: Any) -> list[str]:
    return refused(content_gates(ItemTable(**section), "item_table", made))


def test_a_good_version_passes() -> None:
    decisions = content_gates(ItemTable(), "item_table", manifest_of())
    assert all(decision.passed for decision in decisions)
    assert len(decisions) == 5
    assert len(content_gates(ItemTable(), "item_table", manifest_of(norm=None, norm_off=None))) == 4


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (
            {"rows": 3},
            "3 rows of 4 items, expected one row for each of 4 readable items of the samples",
        ),
        (
            {"distinct": 3},
            "4 rows of 3 items, expected one row for each of 4 readable items of the samples",
        ),
        (
            {"rows": 0, "distinct": 0, "samples_rows": 0},
            "0 rows of 0 items, expected one row for each of 0 readable items of the samples, and some",
        ),
        ({"broken": 2}, "2 vectors are not 2 finite numbers"),
        (
            {"broken": 1, "rows": 999, "distinct": 999, "samples_rows": 1000, "quarantined": {NOT_FINITE: 1}},
            "1 vectors are not 2 finite numbers",
        ),
        (
            {"zeros": 3, "zero_example": "i2", "norm": None, "norm_off": None},
            "3 of 4 items have a vector of zeros alone, such as 'i2': it scores 0 with everything",
        ),
        (
            {"norm_off": 0.25},
            "a vector's norm is off 1 by 0.25, item_table.norm_tolerance is 0.001",
        ),
        ({"norm_off": float("inf")}, "a vector's norm is off 1 by inf, item_table.norm_tolerance is 0.001"),
        (
            {"rows": 3, "distinct": 3, "quarantined": {"no id": 1}},
            "1 of 4 rows can't be read (1 no id), item_table.max_quarantine_share is 0.01",
        ),
    ],
    ids=["rows", "ids", "no rows", "numbers", "numbers put aside", "zeros", "norms", "infinite norms", "quarantine"],
)
def test_what_is_refused(made: dict[str, Any], reason: str) -> None:
    assert reasons(manifest_of(**made)) == [reason]
    decided = manifest_of(gates=content_gates(ItemTable(), "item_table", manifest_of(**made)))
    assert PublishedManifest.model_validate_json(decided.model_dump_json()) == decided


def test_a_share_of_unreadable_rows_is_let_through() -> None:
    made = manifest_of(rows=99, distinct=99, samples_rows=100, quarantined={"no id": 1})
    assert reasons(made) == []
    assert reasons(made, max_quarantine_share=0.009)
    both = made.model_copy(update={"rows": 98, "distinct": 98, "quarantined": {"no id": 1, NOT_FINITE: 1}})
    assert reasons(both) == []  # the share is of rows that can't be read: one


def test_rows_of_the_catalogue_that_were_not_encoded_have_a_share_of_their_own() -> None:
    """A catalogue may hold many rows an item, and items of later days."""
    made = manifest_of(catalogue_rows=1000, not_encoded={"no id": 7, "no upload time": 3}, quarantined={"refused": 0})
    assert reasons(made) == []
    assert reasons(made.model_copy(update={"not_encoded": {"no id": 8, "no upload time": 3}})) == [
        "build_samples could not read 11 of 1,000 rows of the catalogue (8 no id, 3 no upload time), "
        "item_table.max_quarantine_share is 0.01"
    ]


def test_drift_is_a_limit_only_where_one_is_set() -> None:
    made = manifest_of(drift=0.7, previous="dt=2024-01-07/version=old")
    assert reasons(made) == []
    assert reasons(made, min_drift_cosine=0.7) == []
    assert reasons(made, min_drift_cosine=0.8) == [
        "the mean cosine to the vectors of dt=2024-01-07/version=old is 0.7000, item_table.min_drift_cosine is 0.8"
    ]
    of_objectives = made.model_copy(update={"drift": 0.9, "objective_drift": {"click": 0.95, "like": 0.75}})
    assert reasons(of_objectives, min_drift_cosine=0.75) == []
    assert reasons(of_objectives.model_copy(update={"drift": None}), min_drift_cosine=0.76)
    assert reasons(of_objectives, min_drift_cosine=0.8) == [
        "the mean cosine to the like vectors of dt=2024-01-07/version=old is 0.7500, item_table.min_drift_cosine is 0.8"
    ]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({}, FIRST),
        ({"previous": OLD}, "not comparable: no row is in the files of dt=2024-01-07/version=old"),
        ({"previous": OLD, "incomparable": "the file is damaged"}, "not comparable: the file is damaged"),
    ],
)
def test_drift_from_nothing_is_said(made: dict[str, Any], reason: str) -> None:
    decisions = content_gates(ItemTable(min_drift_cosine=0.8), "item_table", manifest_of(**made))
    assert decisions[-1] == GateDecision(gate=DRIFT, passed=True, limit=0.8, reason=reason)
    assert unheard(decisions) == ([f"gate 'drift' has not looked: {reason}"] if made else [])
    assert unheard(content_gates(ItemTable(), "item_table", manifest_of(**made))) == []  # nobody asked for it


def test_a_rollback_refuses_what_it_has_left() -> None:
    pointer = Pointer(version="v1", folder="version=v1", at=MADE_AT, rolled_back=["v2"])
    (decision,) = rollback_gates(pointer, "v2", "score_items")
    assert refused([decision]) == [
        "version v2 was rolled back, version v1 has been current since 2024-01-09 03:00 UTC; score_items would move to "
        "v2 again"
    ]
    assert rollback_gates(pointer, "v3", "score_items") == rollback_gates(None, "v2", "score_items") == []


def test_a_publish_counts_its_gates() -> None:
    passed, blind = GateDecision(gate="a", passed=True), GateDecision(gate="b", passed=True, reason=FIRST)
    overruled = GateDecision(gate="c", passed=False, reason="too bad")
    assert tally([passed, passed]) == "2 gates passed"
    assert tally([passed, passed, blind]) == "2 gates passed, 1 had nothing to compare with"
    assert tally([passed, passed, overruled]) == "2 gates passed, 1 overruled by --force"


def test_all_reasons_are_said() -> None:
    decisions = content_gates(ItemTable(), "item_table", manifest_of(rows=3, broken=1))
    with pytest.raises(GateError) as caught:
        check(decisions, forced=False)
    assert str(caught.value).splitlines() == [
        "gate: 3 rows of 4 items, expected one row for each of 4 readable items of the samples",
        "gate: 1 vectors are not 2 finite numbers",
        "the table keeps what it had; --force publishes anyway",
    ]
    assert caught.value.exit_code == 3
    check(decisions, forced=True)
