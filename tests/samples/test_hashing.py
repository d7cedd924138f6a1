from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.samples.hashing import HASH_KEY, bucket_ids, trigram_ids

MASK = 2**64 - 1


def siphash(data: bytes, key: bytes) -> int:
    """SipHash-2-4 as its authors describe it (Aumasson and Bernstein, 2012)."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x: int, bits: int) -> int:
        return ((x << bits) | (x >> (64 - bits))) & MASK

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0], v[2] = (v[0] + v[1]) & MASK, (v[2] + v[3]) & MASK
            v[1], v[3] = rotate(v[1], 13) ^ v[0], rotate(v[3], 16) ^ v[2]
            v[0], v[2] = (rotate(v[0], 32) + v[3]) & MASK, (v[2] + v[1]) & MASK
            v[1], v[3] = rotate(v[1], 17) ^ v[2], rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    whole = len(data) - len(data) % 8
    words = [data[place : place + 8] for place in range(0, whole, 8)]
    for word in [*words, data[whole:].ljust(7, b"\0") + bytes([len(data) % 256])]:
        number = int.from_bytes(word, "little")
        v[3] ^= number
        rounds(2)
        v[0] ^= number
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def mixed(x: int) -> int:
    """The last step of SplitMix64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def bucket(token: str, buckets: int) -> int:
    return 2 + mixed(siphash(token.encode(), HASH_KEY.encode())) % buckets


def trigrams(word: str) -> list[str]:
    framed = f"#{word}#"
    return [framed[place : place + 3] for place in range(len(framed) - 2)]


def test_the_reference_gives_the_authors_value() -> None:
    assert siphash(bytes(range(15)), bytes(range(16))) == 0xA129CA6149BE45E5


@given(tokens=st.lists(st.one_of(st.none(), st.text(), st.sampled_from(["a", "b"]))), buckets=st.integers(1, 2**31 - 3))
def test_a_token_has_the_bucket_of_its_hash(tokens: list[str | None], buckets: int) -> None:
    expected = [bucket(token, buckets) if token and token.strip() else 1 for token in tokens]
    assert bucket_ids(pa.array(tokens, pa.string()), buckets).tolist() == expected


@pytest.mark.parametrize(("token", "place"), [("a", 408), ("572", 374), ("é日", 577)])
def test_buckets_stay_what_they_were(token: str, place: int) -> None:
    """A model's tables are laid out by these: they must not move between releases."""
    assert bucket_ids(pa.array([token]), 1000).tolist() == [2 + place]


letters = st.sampled_from([*"abc#é日", "😀", "\0"])


@given(words=st.lists(st.text(letters, min_size=1)), buckets=st.integers(1, 50))
def test_trigrams_of_words(words: list[str], buckets: int) -> None:
    offsets, ids = trigram_ids(pa.array(words, pa.string()), buckets)
    assert len(offsets) == len(words) + 1
    found = [ids[offsets[place] : offsets[place + 1]].tolist() for place in range(len(words))]
    assert found == [[bucket(trigram, buckets) for trigram in trigrams(word)] for word in words]


def test_the_trigrams_of_a_cat() -> None:
    expected = bucket_ids(pa.array(["#ca", "cat", "at#", "#a#"]), 1000)
    assert trigram_ids(pa.array(["cat", "a"]), 1000)[1].tolist() == expected.tolist()
