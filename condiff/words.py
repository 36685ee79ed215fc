"""Words as numbers: a vocabulary of hashes, which needs no file."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Words = tuple[str, str]  # a prompt and a negative prompt
NO_WORDS: Words = ("", "")
HASHES = 2  # numbers per word: two words share both about once in buckets²
MAX_WORDS = 24  # words of a text that are read
_WORD = re.compile(r"[^\W_]+")


class WithWords(NamedTuple):
    """An encoded condition of a model that takes words: arrays of a backend."""

    picture: Any  # (B,K,h,w)
    words: Any  # embeddings: (B,d) of a text, or of a base (B,n,d) of its tokens


def with_words(
    conds: tuple[Any, Any | None], prompt: Any, negative: Any
) -> tuple[WithWords | None, ...]:
    """The conditions of guidance, from cond, null_cond and the embeddings of two texts.

    They are picture and prompt, picture and negative prompt, and the negative prompt alone; where
    null_cond is None, picture and prompt, and None.
    """
    cond, null_cond = conds
    if null_cond is None:
        return WithWords(cond, prompt), None
    return WithWords(cond, prompt), WithWords(cond, negative), WithWords(null_cond, negative)


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; "Two red roses" has two, red, rose.

    A final s counts as a plural and is removed.
    """
    return [_singular(word) for word in _WORD.findall(text.lower())]


def tokenize(texts: Sequence[str], *, buckets: int) -> NDArray[np.int64]:
    """Texts -> the numbers of their words, (B,n,HASHES) int64 in [0, buckets]; 0 is no word.

    A word's numbers are hashes, modulo `buckets`, plus one (Svenstrup et al. 2017,
    arXiv:1709.03933). n is that of the longest text, at most MAX_WORDS and at least 1.
    """
    words = [split_words(text)[:MAX_WORDS] for text in texts]
    length = max([1, *(len(each) for each in words)])
    numbers = np.zeros((len(texts), length, HASHES), np.int64)
    for row, each in enumerate(words):
        for place, word in enumerate(each):
            numbers[row, place] = [_hash(word, turn) % buckets + 1 for turn in range(HASHES)]
    return numbers


def _hash(word: str, turn: int) -> int:
    return crc32(word.encode("utf-8", "surrogatepass"), turn)


def _singular(word: str) -> str:
    plural = len(word) > 3 and word.endswith("s") and not word.endswith("ss")
    return word[:-1] if plural else word
