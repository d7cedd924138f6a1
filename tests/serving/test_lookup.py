from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dssm.serving.lookup import Lookup

TEXTS = st.lists(st.text(max_size=4), unique=True, max_size=30)


@given(ids=TEXTS, others=TEXTS)
def test_each_id_has_its_place_and_no_other_has_one(ids: list[str], others: list[str]) -> None:
    ids = [text for text in ids if text.isprintable()]
    lookup = Lookup(pa.array(ids, pa.string()))
    assert [lookup.place(text) for text in ids] == list(range(len(ids)))
    assert [lookup[place] for place in range(len(lookup))] == ids
    assert {lookup.place(text) for text in set(others) - set(ids)} <= {None}


def test_hints_are_near_or_few() -> None:
    many = Lookup(pa.array([f"post{number:03d}" for number in range(500)]))
    assert many.hint("post3000") == " (did you mean 'post300'?)"
    assert many.hint("zzzz") == " (such as post480, post481, post482)"
    assert Lookup(pa.array(["a", "b"])).hint("zzzz") == " (known: a, b)"
    assert Lookup(pa.array([], pa.string())).hint("a") == ""
