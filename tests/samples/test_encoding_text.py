"""The letter trigrams of texts."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.features import TextFeat
from dssm.samples import ragged
from dssm.samples.encoding import encode_features
from dssm.samples.hashing import bucket_ids
from dssm.samples.lookup_tables import Tables
from tests.samples.encoded import TEXT, cut, encode, kept, padded

letters = st.sampled_from([*"aAbB#É日Σ \t\n\u3000\u00a0\x1c", "😀"])


def trigram_counts(text: str | None) -> dict[int, int]:
    """Ids of a text's trigrams, in the order of their first places, and how often each comes."""
    words = "".join(letter.lower() for letter in text or "").split()
    trigrams = [f"#{word}#"[place : place + 3] for word in words for place in range(len(word))]
    return Counter(bucket_ids(pa.array(trigrams, pa.string()), 7).tolist())


@given(
    texts=st.lists(st.one_of(st.none(), st.text(letters)), max_size=8),
    cut=cut,
    keep=st.sampled_from(["first", "last", "heaviest"]),
    at_once=st.integers(1, 20),
)
def test_a_text(texts: list[str | None], cut: tuple[int, int], keep: str, at_once: int) -> None:
    feature = TEXT.model_copy(update={"keep": keep})
    with mock.patch.object(ragged, "MAX_ENTRIES", at_once):
        found = encode(feature, pa.array(texts, pa.string()).slice(*cut))
    counts = [trigram_counts(text) for text in texts[cut[0] : cut[0] + cut[1]]]
    stay = [kept(list(row), list(row.values()), 4, keep) for row in counts]
    assert found["text"].tolist() == [padded(row, 4) for row in stay]
    weights = [[count[i] for i in row] for count, row in zip(counts, stay, strict=True)]
    assert found["text__weight"].tolist() == [padded(row, 4) for row in weights]


@pytest.mark.parametrize("behind", [b"\0", b"a", b" ", b"\x80", b"\xe6", b"\xff"])
def test_what_lies_in_memory_behind_the_last_text_is_no_part_of_it(behind: bytes) -> None:
    """A kernel's result may be followed by bytes of an earlier text: here by bytes that begin no letter, too."""

    def followed(texts: pa.Array) -> pa.Array:
        data = b"".join(text.encode() for text in texts.to_pylist())
        offsets = np.cumsum([0, *[len(text.encode()) for text in texts.to_pylist()]], dtype=np.int32)
        return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(data + 8 * behind))

    lower = pc.utf8_lower
    with mock.patch.object(pc, "utf8_lower", lambda texts: followed(lower(texts))):
        found = encode(TEXT, pa.array(["Cat ", "a\u3000", " Cat\t"]))
    assert found["text"][2].tolist() == found["text"][0].tolist() == padded(list(trigram_counts("cat")), 4)
    assert found["text__weight"][2].tolist() == padded(list(trigram_counts("cat").values()), 4)
    assert found["text"][1].tolist() == padded(list(trigram_counts("a")), 4)


def test_the_trigrams_of_two_words() -> None:
    feature = TextFeat(name="text", side="item", maxlen=6, hash_buckets=100_000)
    tables = Tables(buckets={"text": 100_000})
    encoded = encode_features({"text": pa.array([" Cat\u3000a CAT "])}, [feature], tables)
    ids = np.frombuffer(encoded["text"][0].as_py(), "<i4")
    expected = bucket_ids(pa.array(["#ca", "cat", "at#", "#a#"]), 100_000)
    assert ids.tolist() == [*expected.tolist(), 0, 0]
    assert np.frombuffer(encoded["text__weight"][0].as_py(), "<f4").tolist() == [2, 2, 2, 1, 0, 0]
