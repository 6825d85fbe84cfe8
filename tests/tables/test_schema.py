"""The grammar of the tags that declare a table."""

from dataclasses import replace

import pytest

from asof.errors import SettingsError
from asof.instants import DAY, SECOND
from asof.tables.schema import Column, Derivation, TableDeclaration
from tests.tables.repos import PAYMENTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int64", Column("c", "int64")),
        ("float64 >= 0", Column("c", "float64", bounds=((">=", 0.0),))),
        ("float64 > -1.5, < 1e6", Column("c", "float64", bounds=((">", -1.5), ("<", 1e6)))),
        ("int8 in 0..1 required", Column("c", "int8", bounds=((">=", 0.0), ("<=", 1.0)), required=True)),
        ("string in {a, b c}", Column("c", "string", choices=("a", "b c"))),
        ("timestamp zoned", Column("c", "timestamp", zoned=True)),
    ],
)
def test_a_column_tag_says_type_and_constraints(text, expected):
    """The grammar of ``asof.column`` tags is what the module's docstring shows."""
    assert Column.parse("c", text, "source") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "decimal",
        "int64 => 0",
        "int64 >= ten",
        "float64 in 0-1",
        "string >= 0",
        "int64 in {a}",
        "int64 zoned",
        "int64 requird",
    ],
)
def test_a_wrong_column_tag_is_refused_by_name(text):
    """A tag that is not of the grammar, or does not fit its type, names the source and the column."""
    with pytest.raises(SettingsError, match=r"'payments'.*amount"):
        Column.parse("amount", text, "payments")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("integer", "int64"), ("double >= 0", "float64"), ("text", "string"), ("timestmp", "timestamp"), ("float6", "float64"),
        ("int64 requird", "required"), ("timestamp zoned, requred", "required"),
    ],
)  # fmt: skip
def test_a_wrong_word_of_a_column_tag_gets_a_hint(text, hint):
    """A type by another system's name, and a misspelled type or constraint, is answered with the word that was probably meant."""
    with pytest.raises(SettingsError, match=rf"did you mean '{hint}'\?"):
        Column.parse("amount", text, "payments")


@pytest.mark.parametrize(
    ("tag", "hint"),
    [
        ("asof.ids", "asof.id"),
        ("asof.colum.amount", "asof.column.amount"),
        ("asof.futur", "asof.future"),
        ("asof.misssing", "asof.missing"),
        ("asof.quarantined", "asof.quarantine"),
    ],
)
def test_an_unknown_tag_gets_a_hint(tag, hint):
    """An unknown tag is answered with the tag that was probably meant."""
    with pytest.raises(SettingsError, match=rf"unknown tag '{tag}'; did you mean '{hint}'\?"):
        replace(PAYMENTS, tags={**PAYMENTS.tags, tag: "x"}).check()


@pytest.mark.parametrize(
    ("text", "shift"), [("t + 7 days", 7 * DAY), ("t - 90s", -90 * SECOND), ("t+1 microsecond", 1), ("t + 0 days", 0)]
)
def test_a_derivation_shifts_another_time(text, shift):
    """``asof.derive`` tags are a column, a sign and a span."""
    assert Derivation.parse("c", text, "source") == Derivation("c", "t", shift)


@pytest.mark.parametrize("text", ["", "t", "t + 7", "t + seven days", "t * 2 days", "+ 7 days"])
def test_a_wrong_derivation_is_refused(text):
    """A derivation without column, sign and span names the source and the column."""
    with pytest.raises(SettingsError, match=r"'payments', tag asof.derive.known_at"):
        Derivation.parse("known_at", text, "payments")


def test_columns_are_ordered_whatever_the_order_of_tags():
    """Tags come back from the registry in any order; the table's columns are id, event time, keys, others, knowledge time."""
    backwards = TableDeclaration.from_dict({**PAYMENTS.to_dict(), "tags": dict(reversed(PAYMENTS.tags.items()))})
    names = [c.name for c in backwards.columns]
    assert names == ["id", "paid_at", "customer", "amount", "kind", "known_at"]
    assert [c.name for c in PAYMENTS.columns] == names


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"asof.column.customer": None}, "customer"),
        ({"asof.column.id": None}, "id"),
        ({"asof.derive.known_at": "elsewhere + 1 day"}, "elsewhere"),
        ({"asof.column.paid_at": "int64"}, "paid_at"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(change, problem):
    """Id, times, keys and what is derived must be declared as columns, times as timestamps."""
    tags = {k: v for k, v in {**PAYMENTS.tags, **change}.items() if v is not None}
    with pytest.raises(SettingsError, match=problem):
        _ = TableDeclaration.from_dict({**PAYMENTS.to_dict(), "tags": tags}).columns


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.5 %", 0.005), ("0.02", 0.02), ("0", 0.0), ("100%", 1.0)])
def test_the_quarantine_tag_is_a_share(text, share):
    """``asof.quarantine`` takes a fraction or percents."""
    assert replace(PAYMENTS, tags={**PAYMENTS.tags, "asof.quarantine": text}).most_quarantined == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "few", "-1%", "101%", "1.5", "1 percent"])
def test_a_share_that_is_none_is_refused(text):
    """Anything else is refused when the declaration is checked, with the form that is expected."""
    with pytest.raises(SettingsError, match=r"asof.quarantine: got .* such as '1%'"):
        replace(PAYMENTS, tags={**PAYMENTS.tags, "asof.quarantine": text}).check()


@pytest.mark.parametrize(("text", "marks"), [("NA", ("NA",)), ('-, n/a , ""', ("-", "n/a", ""))])
def test_the_marks_of_missing_values_are_listed(text, marks):
    """``asof.missing`` is a list of texts; a quoted empty one stands for the quoted empty cell."""
    assert replace(PAYMENTS, tags={**PAYMENTS.tags, "asof.missing": text}).missing == marks


@pytest.mark.parametrize("text", ["", "NA,", ", -"])
def test_a_mark_that_is_empty_is_refused(text):
    """An empty mark is refused when the declaration is checked, with the form that is expected."""
    with pytest.raises(SettingsError, match=r"tag asof.missing: got .* expected texts such as 'NA, -'"):
        replace(PAYMENTS, tags={**PAYMENTS.tags, "asof.missing": text}).check()
