"""Made-up words, some of each topic and some common: what titles and interests are written in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dssm.demo.feed import Floats, Ints

WORDS_OF_TOPIC = 12
COMMON_WORDS = 40
# A vowel ends every syllable, so that a word can be read in one way only and different syllables are different words.
_SYLLABLES = [onset + vowel for onset in ("ch", "sh", *"bdfgklmnprstvz") for vowel in "aeiou"]
_ENDINGS = ["", "n", "r", "s"]
_SYLLABLES_OF_WORD = 2


@dataclass(frozen=True)
class Lexicon:
    """T topics' words; behind them the common ones.

    words: (T · WORDS_OF_TOPIC + COMMON_WORDS,) strings.
    """

    words: pa.Array
    topics: int

    def draw(self, topic: Ints, word_u: Floats) -> pa.Array:
        """Draws a word of each topic, its first the likeliest. All of one shape; the words are in C order.

        Args:
          topic: places of topics; T draws a common word.
          word_u: uniforms.
        """
        known = np.where(topic < self.topics, WORDS_OF_TOPIC, COMMON_WORDS)
        place = topic * WORDS_OF_TOPIC + (known * word_u**2).astype(np.int64)
        return self.words.take(pa.array(place.ravel()))


def make_lexicon(random: np.random.Generator, topics: int) -> Lexicon:
    """Makes up different pronounceable words."""
    return Lexicon(_made_up_words(random, topics * WORDS_OF_TOPIC + COMMON_WORDS), topics)


def _made_up_words(random: np.random.Generator, count: int) -> pa.Array:
    syllables = _SYLLABLES_OF_WORD
    while len(_ENDINGS) * len(_SYLLABLES) ** syllables < 4 * count:
        syllables += 1
    code: npt.NDArray[np.int64] = random.choice(len(_ENDINGS) * len(_SYLLABLES) ** syllables, count, replace=False)
    code, ending = np.divmod(code, len(_ENDINGS))
    parts = [pa.array(_ENDINGS).take(pa.array(ending))]
    for _ in range(syllables):
        code, syllable = np.divmod(code, len(_SYLLABLES))
        parts.insert(0, pa.array(_SYLLABLES).take(pa.array(syllable)))
    return pc.binary_join_element_wise(*parts, "")
