"""A hash is a promise to every other process, machine and version."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.runtime.hashing import (
    Codes,
    class_hash,
    class_hashes,
    content_hashes,
    id_hashes,
    number_bits,
    text_hashes,
)

GOLDEN_IDS = ["0xeb510819b2dd5463", "0x72f5805cd2118ef0", "0x12c464bc85beba5e"]
GOLDEN_CLASSES = [120362236, 2024320057, 593570282]
GOLDEN_CONTENT = [966799558]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def test_hashes_never_change() -> None:
    # written down once: what lies in a changelog was hashed by an older version
    codes = np.array([0, 1, 0], np.int32)
    ids = ["p1", "p1", "0192f0c1-9d7e-7cc3-98c4-dc0c0c07398f"]
    assert [hex(int(one)) for one in id_hashes(["fraud", "kürzer"], codes, ids)] == GOLDEN_IDS
    assert [class_hash(one) for one in ("1", "größer", 0.5)] == GOLDEN_CLASSES
    content = content_hashes(
        np.array([7], np.uint32), np.array([0.25], np.float32), np.array([1_700_000_000_000], np.int64)
    )
    assert content.tolist() == GOLDEN_CONTENT


@given(st.lists(TEXTS, min_size=1, max_size=30))
def test_a_text_hashes_alike_in_whatever_company(texts: list[str]) -> None:
    together = text_hashes(texts)
    alone = [text_hashes([text])[0] for text in texts]
    assert together.tolist() == [int(one) for one in alone]


@given(st.sets(TEXTS, min_size=2, max_size=200))
def test_texts_differ_in_their_hashes(texts: set[str]) -> None:
    assert len(set(text_hashes(sorted(texts)).tolist())) == len(texts)


def test_padding_and_order_of_words_are_seen() -> None:
    texts = ["a", "a\0", "a\0\0\0\0\0\0\0\0", "abcdefgh12345678", "12345678abcdefgh", "", "\0"]
    assert len(set(text_hashes(texts).tolist())) == len(texts)


def test_a_million_counted_ids_do_not_collide() -> None:
    ids = [f"request-{number:09d}" for number in range(1_000_000)]
    hashes = id_hashes(["m"], np.zeros(len(ids), np.int32), ids)
    assert len(np.unique(hashes)) == len(ids)
    low = np.bincount((hashes & np.uint64(255)).astype(np.int64), minlength=256)
    assert np.abs(low - len(ids) / 256).max() < 6 * np.sqrt(len(ids) / 256)


def test_a_class_is_its_name_however_it_was_written() -> None:
    assert class_hashes(["1", 1, 1.0]).tolist() == [class_hash("1")] * 3
    assert class_hash(-0.0) == class_hash(0)


def test_numbers_keep_their_single() -> None:
    assert number_bits(np.array([0.1, -0.0])).view(np.float32).tolist() == [np.float32(0.1), 0.0]
    assert number_bits(np.array([-0.0]))[0] == number_bits(np.array([0.0]))[0]


def test_content_tells_conflicts() -> None:
    one = np.ones(4, np.uint32)
    said = content_hashes(
        np.array([1, 2, 1, 1], np.uint32),
        np.array([0.5, 0.5, np.nan, 0.5], np.float32),
        np.array([7, 7, 7, 8], np.int64),
    )
    assert len(set(said.tolist())) == len(one)


def test_no_name_is_no_code() -> None:
    codes = Codes()
    assert codes.column([None, "b", "a", "b"]).tolist() == [-1, 0, 1, 0]
    assert codes.names() == ("b", "a")
