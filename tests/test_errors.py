from __future__ import annotations

import pytest

from dssm.errors import GateError, UserError, did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("topicid", ["topic_id", "client_id"], " (did you mean 'topic_id'?)"),
        ("zzz", ["b", "a"], " (known: a, b)"),
        ("zzz", [], ""),
    ],
)
def test_the_nearest_known_word_is_named(word: str, known: list[str], hint: str) -> None:
    assert did_you_mean(word, known) == hint


def test_a_gate_has_its_own_exit_code() -> None:
    assert (UserError.exit_code, GateError.exit_code) == (2, 3)
    assert issubclass(GateError, UserError)
