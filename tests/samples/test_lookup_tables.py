"""Places and ids of tokens."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dssm.samples.lookup_tables import places_in, token_ids


def test_every_id_is_unknown_to_an_empty_vocabulary() -> None:
    assert token_ids(pa.array(["a", None]), pa.array([], pa.string())).tolist() == [1, 1]


@given(known=st.lists(st.text("abc", max_size=3), unique=True), data=st.data())
def test_places_are_found_in_short_and_long_tables(known: list[str], data: st.DataObject) -> None:
    asked = data.draw(st.lists(st.one_of(st.none(), st.text("abc", max_size=3), st.sampled_from(known or ["a"]))))
    found = places_in(pa.array(asked, pa.string()), pa.array(known, pa.string()))
    assert found.tolist() == [known.index(token) if token in known else -1 for token in asked]
