"""What is read without objects is what is read with them, whatever comes; and nothing is read that is not there."""

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.runtime.decode import Edge, LabelEdge, OutputEdge
from streams.runtime.plain import FIRST_NAMES, FIRST_ROWS, Joined, library
from tests.streams.runtime.test_decode import (
    GOOD,
    MODELS,
    TRUE,
    bytes_of,
    contents,
    hostile,
    messages,
    outputs,
    table,
)

ROOT = Path(__file__).parents[3]
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")

pytestmark = pytest.mark.program("gcc")

NUMBERS = (
    "0", "-0", "1", "-1", "7", "0.5", "1.0", "1.25", "-0.0", "1e0", "1E-7", "2e+3", "0.30000000000000004", "123456789012",
    "9007199254740993", "123456789012345678", "1234567890123456789", "123456789012345678901", "2.2250738585072014e-308",
    "5e-324", "1.7976931348623157e308", "1e400", "-1e400", "3.4028234663852886e38", "3.5e38", "0.000000000000000001234567",
    "0.00012345678901234567", "12345678901234567890.5", "0.18446744073709551616", "18446744073709551616.0", "01", "1.", ".5", "-", "+1", "1e", "1e+", "1e99999", "NaN", "Infinity",
    "253402300799999", "253402300800000", "0x10", "1_0",
)  # fmt: skip
TEXTS = (
    '"west"', '"east"', '"fraud"', '"price"', '"tocsin"', '"p1"', '"1"', '"review"', '"nobody"', '""', '"grün"', '"日本"', '"w\\u0065st"',
    '"\\ud800"', '"\\ud83d\\ude00"', '"a\\"b"', '"a\\qb"', '"\\u12"', '"a\tb"', '"a', '"\\"', f'"{"x" * 512}"', f'"{"x" * 513}"',
)  # fmt: skip
OTHERS = (
    "null", "true", "false", "nul", "tru", "[]", "{}", "[1,2]", "[1,]", "[,1]", '{"a":1}', '{"a":1,}', '{"a" 1}', '{"a":[{}]}',
    '{"region":"west"}', '{"region":null}', '{"region":"a","region":"b"}', '{"age":1.5,"channel":"web"}', '{"age":true}',
    '{"no":0.2,"yes":0.8}', '{"no":0.2,"no":0.1}', '{"no":1.5}', '{"age":null,"channel":null}', "[[[[]]]]", "[" * 70 + "]" * 70,
    "",
)  # fmt: skip
TOKENS = st.one_of(*map(st.sampled_from, (NUMBERS, TEXTS, OTHERS)))
SPACE = st.sampled_from(["", "", "", " ", "\n\t", "\r "])
OUTPUT_KEYS = (
    "prediction_id",
    "model",
    "made_at_ms",
    "prediction",
    "version",
    "score",
    "probabilities",
    "segments",
    "features",
)
LABEL_KEYS = ("prediction_id", "model", "labelled_at_ms", "label", "version", "made_at_ms", "source", "retracted")
ODD_KEYS = (
    "rows",
    "columns",
    "schema",
    "text",
    "",
    "grün",
    "sc\\u006fre",
    "segments.region",
    "features.age",
    "probabilities.no",
)


@st.composite
def row(draw: st.DrawFn, good: dict[str, Any], keys: Sequence[str]) -> bytes:
    """Make a row of which some values are of all kinds, some fields come twice, in any order, with any room between them."""
    pairs = [(name, json.dumps(value)) for name, value in good.items()]
    pairs += draw(st.lists(st.tuples(st.sampled_from([*keys, *ODD_KEYS]), TOKENS), max_size=3))
    if draw(st.booleans()):
        pairs = list(dict(pairs).items())  # what came later instead of both
    text = ",".join(f'{draw(SPACE)}"{name}"{draw(SPACE)}:{draw(SPACE)}{value}{draw(SPACE)}' for name, value in pairs)
    return (draw(SPACE) + "{" + text + "}" + draw(st.sampled_from(["", "", " ", "x", "}"]))).encode()


@st.composite
def many(draw: st.DrawFn, good: dict[str, Any], keys: Sequence[str]) -> bytes:
    """Make columns of the same kind."""
    count = draw(st.integers(1, 3))
    columns = {name: [json.dumps(value)] * count for name, value in good.items()}
    extra = st.sampled_from([*keys, *ODD_KEYS])
    for name in draw(st.lists(extra, max_size=3)):
        columns[name] = draw(st.lists(TOKENS, min_size=max(count - draw(st.integers(0, 1)), 0), max_size=count))
    body = ",".join(f'"{name}":[{",".join(values)}]' for name, values in columns.items())
    rows = draw(st.sampled_from([str(count), str(count), str(count), "1.0", "null"]))
    parts = ['"schema":1', f'"rows":{rows}', f'"columns":{{{body}}}']
    return ("{" + ",".join(draw(st.permutations(parts))) + "}").encode()


def alike(edge: Edge[Any], values: Sequence[bytes | None]) -> None:
    """Decode with objects and without, and compare."""
    assert edge._scanner is not None  # noqa: SLF001
    there = edge.decode(messages(values))
    edge._scanner, scanner = None, edge._scanner  # noqa: SLF001
    here = edge.decode(messages(values))
    edge._scanner = scanner  # noqa: SLF001
    assert contents(there.batch) == contents(here.batch)
    assert there.dead == here.dead
    assert there.cut_texts == here.cut_texts


@pytest.mark.parametrize("digits", ["0.18446744073709551616", "0.36893488147419103232", "0.018446744073709551616"])
def test_digits_that_64_bits_do_not_hold_are_not_taken_for_others(digits: str) -> None:
    value = bytes_of(GOOD | {"score": "?"}).replace(b'"?"', digits.encode())
    alike(OutputEdge(MODELS, partitions=4), [value])


def test_of_long_columns_that_are_refused_nothing_is_left_behind() -> None:
    edge = OutputEdge(MODELS, partitions=4)
    long = bytes_of({"rows": 9, "columns": {"score": [0.5] * 5_000, "made_at_ms": [1] * 5_000}})
    longest = bytes_of({"rows": 1, "columns": {"made_at_ms": [1] * 200_000}})
    bare = {name: GOOD[name] for name in ("prediction_id", "model", "made_at_ms", "prediction")}
    alike(edge, [long, bytes_of(bare), longest, b"?", table([bare] * 9), bytes_of(bare)])
    assert edge._scanner is not None  # noqa: SLF001
    assert edge._scanner._rows <= 2 * 65_536, "no message has more rows, and none makes room for more"  # noqa: SLF001


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.none(), row(GOOD, OUTPUT_KEYS), many(GOOD, OUTPUT_KEYS), hostile(GOOD)), max_size=8))
def test_outputs_are_alike(values: list[bytes | None]) -> None:
    alike(OutputEdge(MODELS, partitions=4), values)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.none(), row(TRUE, LABEL_KEYS), many(TRUE, LABEL_KEYS), hostile(TRUE)), max_size=8))
def test_labels_are_alike(values: list[bytes | None]) -> None:
    alike(LabelEdge(MODELS, partitions=4), values)


def plain_rows(edge: Edge[Any], values: Sequence[bytes]) -> list[int]:
    assert edge._scanner is not None  # noqa: SLF001
    rows: list[int] = edge._scanner.scan(Joined.of(values)).of_message.tolist()  # noqa: SLF001
    return rows


def test_what_producers_send_is_plain() -> None:
    full = GOOD | {
        "version": "7",
        "probabilities": {"0": 0.75, "1": 0.25},
        "latency_ms": 12.5,
        "segments": {"region": "grün", "undeclared": "x"},
        "features": {"age": 41, "channel": "web", "undeclared": None},
        "text": 'Grüße,\n"Tocsin" 🔔',
        "judges": {"j": {"score": 0.5, "label": "ok"}},
        "user_id": None,
        "schema": 1,
    }
    columns = {name: value for name, value in full.items() if name not in ("probabilities", "judges")}
    in_utf8 = json.dumps(full, ensure_ascii=False).encode()
    in_ascii = bytes_of(full | {"segments": {"region": "west"}})
    assert plain_rows(OutputEdge(MODELS, 4), [in_utf8, in_ascii, table([columns | {"segments": {}}] * 2)]) == [1, 1, 2]
    label = TRUE | {"version": 3, "made_at_ms": 1_000, "source": "review", "retracted": False}
    assert plain_rows(
        LabelEdge(MODELS, 4), [bytes_of(label), table([label, label | {"version": None, "source": None}])]
    ) == [1, 2]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (
            b'{"prediction_id":"p1","model":"fraud","made_at_ms":1,"prediction":1,"score":0.5,"score":0.7}',
            "a field twice",
        ),
        (b'{"prediction_id":"p1","model":"fraud","made_at_ms":1,"prediction":1,"score":1.5}', "out of range"),
        (b'{"prediction_id":"p1","model":"fr\\u0061ud","made_at_ms":1,"prediction":1}', "an escape in a name"),
        (b'{"prediction_id":"p1","model":"fraud","made_at_ms":1}', "a field is missing"),
        (b'{"prediction_id":"p1","model":"price","made_at_ms":1,"prediction":"1"}', "a regression says no number"),
        (b'{"prediction_id":"p1","model":"fraud","made_at_ms":1,"prediction":1}{}', "something behind it"),
        (
            b'{"prediction_id":"p1","model":"fraud","made_at_ms":1,"prediction":1,"x":[1,]}',
            "what is skipped is no JSON",
        ),
    ],
)
def test_what_is_unusual_is_left_to_the_other(value: bytes, why: str) -> None:
    assert plain_rows(OutputEdge(MODELS, 4), [value]) == [0], why


def test_all_find_room() -> None:
    many_rows = [GOOD | {"prediction_id": f"p{n}", "segments": {"region": f"r{n}"}} for n in range(FIRST_ROWS + 1)]
    assert len(many_rows) > FIRST_NAMES
    edge = OutputEdge(MODELS, 4)
    alike(edge, [table(many_rows), *map(bytes_of, many_rows[:3]), b"{", table(many_rows[:5])])
    assert outputs(table(many_rows)).batch.segments["region"].values[-1] == f"r{FIRST_ROWS}"


@pytest.mark.parametrize("forms", [[bytes_of], [lambda row: table([row])], [bytes_of, lambda row: bytes_of([row])]])
def test_the_same_rows_are_looked_at_and_found_elsewhere(forms: list[Callable[[dict[str, Any]], bytes]]) -> None:
    rows = [GOOD | {"prediction_id": f"grün {n}"} for n in range(1_000)]
    edge = OutputEdge(MODELS, 4)
    alike(edge, [forms[at % len(forms)](one) for at, one in enumerate(rows)])
    assert {-1, 0, 1} == set(outputs(*map(bytes_of, rows)).batch.misplaced.tolist())


def test_names_of_what_is_refused_are_not_left_behind() -> None:
    refused = bytes_of({name: value for name, value in (GOOD | {"model": "nobody"}).items() if name != "made_at_ms"})
    refused = refused[:-1] + b',"made_at_ms":-1}'
    assert outputs(bytes_of(GOOD), refused).batch.model.values == ("fraud",)


@given(st.lists(st.floats(-1e308, 1e308), min_size=1, max_size=50))
def test_doubles_are_exact(values: list[float]) -> None:
    forms: list[Callable[[float], str]] = [repr, "{:.17g}".format, "{:.3e}".format, "{:.6f}".format]
    texts = [form(value) for value in values for form in forms]
    rows = [
        f'{{"prediction_id":"p","model":"fraud","made_at_ms":1,"prediction":1,"features":{{"age":{text}}}}}'
        for text in texts
    ]
    read = outputs(*(row.encode() for row in rows)).batch.features["age"].numbers
    expected = [float(text) if re.search("[.e]", text) else float(int(text)) for text in texts]  # no whole number is -0
    assert [struct.pack("d", one) for one in read.tolist()] == [struct.pack("d", one) for one in expected]


def test_doubles_of_any_bits_are_exact_and_plain() -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2**63, 20_000, np.uint64) | rng.integers(0, 2, 20_000, np.uint64) << np.uint64(63)
    values = [one for one in bits.view(np.float64).tolist() if np.isfinite(one) and abs(one) > sys.float_info.min]
    halfway = [float(2**53 + n) for n in range(200)] + [n / 8 for n in range(1_000)] + [n / 1_000 for n in range(1_000)]
    texts = [repr(one) for one in values + halfway]
    rows = [
        f'{{"prediction_id":"p","model":"fraud","made_at_ms":1,"prediction":1,"features":{{"age":{text}}}}}'.encode()
        for text in texts
    ]
    edge = OutputEdge(MODELS, 4)
    assert np.mean(plain_rows(edge, rows)) > 0.999
    read = edge.decode(messages(rows)).batch.features["age"].numbers
    assert read.tolist() == values + halfway


@pytest.mark.slow
def test_nothing_is_read_or_written_that_is_not_there(tmp_path: Path) -> None:
    sanitized = tmp_path / "_plain.so"
    source = ROOT / "streams" / "runtime" / "plain.c"
    subprocess.run(
        ["/usr/bin/env", "gcc", "-std=c11", "-fPIC", "-shared", *SANITIZED, "-o", sanitized, source, "-lm"], check=True
    )
    preload = subprocess.run(
        ["/usr/bin/env", "gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout
    done = subprocess.run(
        [sys.executable, "-c", HARASS, str(sanitized)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": preload.strip(), "ASAN_OPTIONS": "detect_leaks=0"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    assert int(done.stdout) > 1_000, "some of what was harmed is plain all the same"


HARASS = """
import random, sys
from pathlib import Path
from streams.runtime import plain
plain.LIBRARY = Path(sys.argv[1])
from streams.runtime.decode import LabelEdge, OutputEdge
from tests.streams.runtime.test_decode import GOOD, MODELS, TRUE, bytes_of, table
from tests.streams.runtime.test_plain import NUMBERS, OTHERS, TEXTS
rng, found = random.Random(3), 0
tokens = [one.encode() for one in (*NUMBERS, *TEXTS, *OTHERS)] + [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\\\", b"\\xe6", b"\\xf0\\x9f"]
full = GOOD | {"segments": {"region": "west"}, "features": {"age": 4.25, "channel": "web"}, "probabilities": {"0": 0.5}}
columns = {name: one for name, one in full.items() if name != "probabilities"}
for edge, good in ((OutputEdge(MODELS, 4), [bytes_of(full), table([columns] * 3)]), (LabelEdge(MODELS, 4), [bytes_of(TRUE), table([TRUE] * 3)])):
    for turn in range(20_000):
        value = rng.choice(good)
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(value) + 1)
            value = rng.choice([value[:at], value[:at] + rng.choice(tokens) + value[at:], value[:at] + value[at + rng.randrange(9):]])
        # each message lies alone and at the end of its memory: a byte too far is seen
        found += int(edge._scanner.scan(plain.Joined.of([value])).rows)
print(found)
"""


def test_there_is_a_library_where_there_is_a_compiler() -> None:
    assert library() is not None


def test_the_compiler_has_nothing_to_say_of_it(tmp_path: Path) -> None:
    sources = [ROOT / "streams" / "runtime" / name for name in ("plain.c", "fetched.c")]
    words = ["-std=c11", "-O3", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["/usr/bin/env", "gcc", *words, "-o", tmp_path / "_plain.so", *sources, "-lm"], check=True)
