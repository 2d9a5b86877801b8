"""Any record, drawn or spelled out from its definition alone: a new record or field is tested as soon as it is there."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from msgspec import inspect

from schemas.fields import NOT_OURS, TOCSIN
from schemas.instant import Instant

Shape = Any
LAST_MS = 253_402_300_799_999
FULL_MS = 1_764_064_800_000


def drawn(shape: Shape) -> st.SearchStrategy[Any]:
    """Return a strategy of values that a decoder of this shape accepts."""
    match shape:
        case inspect.StructType():
            fields = {field.name: field for field in shape.fields if field.name != "schema"}
            required = {name: drawn(field.type) for name, field in fields.items() if field.required}
            optional = {name: drawn(field.type) for name, field in fields.items() if not field.required}
            return st.fixed_dictionaries(required, optional=optional).map(lambda values: shape.cls(**values))
        case inspect.StrType():
            if shape.pattern not in {None, NOT_OURS}:
                return st.from_regex(shape.pattern, fullmatch=True, alphabet=st.characters(codec="ascii"))
            low, high = shape.min_length or 0, shape.max_length or 2**31
            return st.text(st.characters(exclude_categories=["Cs"]), min_size=low, max_size=min(high, low + 8)).filter(
                TOCSIN.__ne__
            )
        case inspect.IntType():
            low = -(2**63) if shape.ge is None else shape.ge
            return st.integers(low, 2**63 - 1 if shape.le is None else shape.le)
        case inspect.FloatType():
            return st.floats(
                shape.gt if shape.ge is None else shape.ge,
                shape.lt if shape.le is None else shape.le,
                exclude_min=shape.gt is not None,
                exclude_max=shape.lt is not None,
                allow_nan=False,
                allow_infinity=False,
            )
        case inspect.BoolType():
            return st.booleans()
        case inspect.BytesType():
            return st.binary(max_size=8)
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType():
            return st.sampled_from(shape.values)
        case inspect.EnumType():
            return st.sampled_from(list(shape.cls))
        case inspect.ListType():
            return st.lists(drawn(shape.item_type), max_size=2)
        case inspect.VarTupleType():
            low = shape.min_length or 0
            return st.lists(drawn(shape.item_type), min_size=low, max_size=low + 2).map(tuple)
        case inspect.TupleType():
            return st.tuples(*map(drawn, shape.item_types))
        case inspect.DictType():
            return st.dictionaries(drawn(shape.key_type), drawn(shape.value_type), max_size=2)
        case inspect.UnionType():
            return st.one_of(*map(drawn, shape.types))
        case inspect.CustomType() if shape.cls is Instant:
            return st.integers(0, LAST_MS).map(Instant)
    raise AssertionError(f"no record had such a field before, say here how one is made: {shape}")


def full(shape: Shape, name: str) -> Any:  # noqa: ANN401 -- whatever the shape is
    """Return one value of this shape, the same in every run, with every optional field present and nothing empty."""
    match shape:
        case inspect.StructType():
            return shape.cls(
                **{field.name: full(field.type, field.name) for field in shape.fields if field.name != "schema"}
            )
        case inspect.StrType():
            return "2026-12-25" if shape.pattern not in {None, NOT_OURS} else f"a {name}"[: shape.max_length]
        case inspect.IntType():
            value = FULL_MS if name.endswith("_ms") else 2
            return min(max(value, shape.ge or value), shape.le or value)
        case inspect.FloatType():
            return 0.25
        case inspect.BoolType():
            return True
        case inspect.BytesType():
            return b"\x00\xff"
        case inspect.LiteralType():
            return shape.values[-1]
        case inspect.EnumType():
            return list(shape.cls)[-1]
        case inspect.ListType():
            return [full(shape.item_type, name)]
        case inspect.VarTupleType():
            return (full(shape.item_type, name),)
        case inspect.TupleType():
            return tuple(full(item, name) for item in shape.item_types)
        case inspect.DictType():
            return {full(shape.key_type, name): full(shape.value_type, name)}
        case inspect.UnionType():
            one = next(one for one in shape.types if not isinstance(one, inspect.NoneType))
            return full(one, name)
        case inspect.CustomType() if shape.cls is Instant:
            return Instant(FULL_MS)
    raise AssertionError(f"no record had such a field before, say here how one is made: {shape}")


@pytest.fixture(scope="session")
def values_of() -> Callable[[Any], st.SearchStrategy[Any]]:
    """Return what makes a strategy of a record's values."""
    return lambda kind: drawn(inspect.type_info(kind))


@pytest.fixture(scope="session")
def full_of() -> Callable[[Any], Any]:
    """Return what makes the full sample of a record."""
    return lambda kind: full(inspect.type_info(kind), kind.__name__.lower())
