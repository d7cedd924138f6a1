"""What the decisions of a version's gates say together: on the terminal, and in the report."""

from __future__ import annotations

from collections.abc import Sequence

from dssm.published import GateDecision

NOT_MEASURED, NOT_COMPARABLE = "not measured", "not comparable"  # how the reasons of gates that saw nothing begin


def unheard(decisions: Sequence[GateDecision]) -> list[str]:
    """Returns what is to be said of gates that let a version through without having seen anything to judge by."""
    blind = (decision for decision in decisions if decision.reason.startswith((NOT_MEASURED, NOT_COMPARABLE)))
    return [f"gate '{decision.gate}' has not looked: {decision.reason}" for decision in blind]


def tally(decisions: Sequence[GateDecision]) -> str:
    """Says how many gates let a published version through, had nothing to judge by, or were overruled by --force."""
    passed = sum(decision.passed and not decision.reason for decision in decisions)
    blind = sum(decision.passed and bool(decision.reason) for decision in decisions)
    overruled = sum(not decision.passed for decision in decisions)
    told = {"gates passed": passed, "had nothing to compare with": blind, "overruled by --force": overruled}
    return ", ".join(f"{count} {what}" for what, count in told.items() if count)
