"""The contract says what a service promises, survives JSON, and its fingerprint changes with every promise."""

import json
from dataclasses import replace

import pytest

from asof.contract import Aggregation, Contract, Field, JoinKey, view_fingerprint
from asof.contract.diff import contract_changes
from asof.errors import BundleError, NotFoundError


def test_json_round_trip_keeps_every_part(contract: Contract) -> None:
    """A contract read back from its JSON equals the one that was written."""
    assert Contract.from_json(contract.to_json()) == contract


def test_keys_carry_the_names_of_requests(contract: Contract) -> None:
    """Keys are listed once, under their request names."""
    assert contract.keys == (Field("buyer_id", "int64"),)


def test_stored_includes_what_only_on_demand_functions_read(contract: Contract) -> None:
    """A feature that no output names is read when an on-demand function needs it, in view order."""
    profile, spending = contract.views
    assert contract.stored(profile) == ("age", "limit")
    assert contract.stored(spending) == ("count_1d", "mean_7d")


def test_fingerprint_ignores_where_files_lie(contract: Contract) -> None:
    """Moving a source's files is not a change of the contract."""
    moved = replace(
        contract, views=tuple(replace(v, source=replace(v.source, path="elsewhere")) for v in contract.views)
    )
    assert moved.fingerprint == contract.fingerprint


def test_fingerprint_does_not_depend_on_the_order_of_sets(contract: Contract) -> None:
    """Views, keys, columns, windows, inputs and request fields listed in another order give the same fingerprints."""
    owner = JoinKey("shop_id", "shop_id", "int64")
    views = tuple(replace(v, join_keys=(*v.join_keys, owner)) for v in contract.views)
    asking = replace(contract.on_demand[0], request=(Field("amount", "float64"), Field("at", "unixtimestamp")))
    given = replace(contract, views=views, on_demand=(asking,))
    turned = tuple(
        replace(v, join_keys=v.join_keys[::-1], features=v.features[::-1], aggregations=v.aggregations[::-1])
        for v in views[::-1]
    )
    other = replace(asking, request=asking.request[::-1], inputs=asking.inputs[::-1])
    assert replace(given, views=turned, on_demand=(other,)).fingerprint == given.fingerprint
    assert [view_fingerprint(v) for v in turned[::-1]] == [view_fingerprint(v) for v in views]
    assert contract_changes(given, replace(given, views=turned, on_demand=(other,))) == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, features=c.features[::-1]),
        lambda c: replace(c, views=(replace(c.views[0], ttl=1), c.views[1])),
        lambda c: replace(c, views=(c.views[0], replace(c.views[1], hop=60))),
        lambda c: replace(
            c, views=(c.views[0], replace(c.views[1], aggregations=(Aggregation("count_1d", "amount", "count", 5),)))
        ),
        lambda c: replace(c, on_demand=(replace(c.on_demand[0], source_hash="cd" * 32),)),
        lambda c: replace(c, views=(replace(c.views[0], source=replace(c.views[0].source, event_id=None)), c.views[1])),
    ],
)
def test_every_promise_is_in_the_fingerprint(contract: Contract, change) -> None:
    """Order, ttl, hop, windows, functions and identity of events each change the fingerprint, and the difference is named."""
    changed = change(contract)
    assert changed.fingerprint != contract.fingerprint
    assert contract_changes(contract, changed)


def test_equal_contracts_have_no_differences(contract: Contract) -> None:
    """A contract differs from itself in nothing."""
    assert contract_changes(contract, contract) == ()


def test_damaged_contract_is_refused(contract: Contract) -> None:
    """A contract edited by hand, of another layout, or cut short is not read."""
    payload = json.loads(contract.to_json())
    edited = json.dumps({**payload, "service": "other"})
    with pytest.raises(BundleError, match="changed by hand"):
        Contract.from_json(edited)
    with pytest.raises(BundleError, match="layout 99"):
        Contract.from_json(json.dumps({**payload, "format": 99}))
    for text in ("", "[]", "{}", contract.to_json()[:-40], json.dumps({**payload, "views": [{}]})):
        with pytest.raises(BundleError):
            Contract.from_json(text)


def test_unknown_view_names_the_closest(contract: Contract) -> None:
    """Asking for a view that is not there says which are."""
    with pytest.raises(NotFoundError, match="did you mean 'spending'"):
        contract.view("spendings")


def test_raw_column_spelling_is_found_through_the_mapping(contract: Contract) -> None:
    """A source knows its own spelling of a mapped column."""
    assert contract.views[0].source.column("amount") == "amt"
    assert contract.views[0].source.column("age") == "age"
