"""What changed between two contracts, two views, or a contract and what is applied online, in words for people.

All comparisons work alike: each side is a table of facts (label -> text) on which values depend, and :func:`changes` compares
the two tables. A caller that needs another comparison chooses other facts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from asof.contract.definitions import NUMERIC_TYPES, Contract, Field, OnDemandView, View, view_fingerprint
from asof.instants import format_span

Facts = Mapping[str, str]


def changes(old: Facts, new: Facts) -> tuple[str, ...]:
    """One line for each fact that differs: changed ones first, then those that are gone, then new ones."""
    lines = [f"{name} was {old[name]}, is {new[name]}" for name in old if name in new and old[name] != new[name]]
    lines += [f"{name} is gone" for name in old if name not in new]
    return (*lines, *(f"{name} is new" for name in new if name not in old))


def contract_changes(old: Contract, new: Contract) -> tuple[str, ...]:
    """What differs between two contracts, a line each; empty when every value is computed alike."""
    lines = changes(dict(_contract_facts(old)), dict(_contract_facts(new)))
    if not lines and old.feature_names != new.feature_names:
        return (f"the order of the features was {list(old.feature_names)}, is {list(new.feature_names)}",)
    return lines


def feature_changes(old: Contract, new: Contract | None) -> dict[str, tuple[str, ...]]:
    """Feature of ``old`` -> what is different about it in ``new``; unchanged features are left out.

    ``new`` is None where the service no longer exists.
    """
    if new is None:
        return {f.name: (f"service {old.service} is gone",) for f in old.features}
    after = {f.name: dict(_feature_facts(new, f.name)) for f in new.features}
    found: dict[str, tuple[str, ...]] = {}
    for name in old.feature_names:
        before = dict(_feature_facts(old, name))
        lines = changes(before, after[name]) if name in after else ("is gone",)
        if lines:
            found[name] = lines
    return found


def view_changes(old: View, new: View) -> tuple[str, ...]:
    """What differs between two states of one view, a line each."""
    return changes(dict(_view_facts(old)), dict(_view_facts(new)))


def stored_changes(contract: Contract, views: Mapping[str, View]) -> dict[str, tuple[str, ...]]:
    """View that ``contract`` reads -> what is different about the values it reads in ``views`` (by name); equal views are left out.

    On-demand functions do not count: a trained model carries its own.
    """
    found: dict[str, tuple[str, ...]] = {}
    for view in contract.views:
        needed, now = contract.stored(view), views.get(view.name)
        after = {} if now is None else dict(_stored_values(now, needed))
        lines = ("is gone",) if now is None else changes(dict(_stored_values(view, needed)), after)
        if lines:
            found[view.name] = tuple(dict.fromkeys([*found.get(view.name, ()), *lines]))
    return found


def applied_changes(contract: Contract, applied: Mapping[str, str]) -> list[str]:
    """What ``contract`` reads and the online store does not have as the contract needs it, a line each.

    Args:
        contract: The contract.
        applied: View name -> its registration in the online store: JSON with its ``fingerprint`` and the ``view``.
    """
    lines: list[str] = []
    for view in contract.views:
        if view.name not in applied:
            lines.append(f"view {view.name}: is not applied; run `asof apply`")
            continue
        known = json.loads(applied[view.name])
        if known["fingerprint"] != view_fingerprint(view):
            needed = [view.feature(name) for name in contract.stored(view)]
            now = View.from_dict(known["view"])
            lines += changes(dict(_online_facts(view, needed)), dict(_online_facts(now, needed)))
    return lines


def _contract_facts(contract: Contract) -> Iterator[tuple[str, str]]:
    """Everything that the values of a contract depend on."""
    for feature in contract.features:
        yield f"feature {feature.name}", f"{feature.dtype} from {feature.view}:{feature.feature}"
    for view in contract.views:
        unused = {f"feature {f.name}" for f in view.features} - {f"feature {name}" for name in contract.stored(view)}
        yield from ((f"view {view.alias}: {label}", text) for label, text in _view_facts(view) if label not in unused)
    for on_demand in contract.on_demand:
        yield from ((f"on-demand {on_demand.alias}: {label}", text) for label, text in _function_facts(on_demand))


def _feature_facts(contract: Contract, feature: str) -> Iterator[tuple[str, str]]:
    """Everything that a value of one feature depends on."""
    found = next(f for f in contract.features if f.name == feature)
    yield "type", found.dtype
    if not found.on_demand:
        yield from _stored_facts(contract.view(found.view), found.feature)
        return
    owner = next(o for o in contract.on_demand if o.alias == found.view)
    yield from _function_facts(owner)
    for alias, name in owner.inputs:
        for label, text in _stored_facts(contract.view(alias), name):
            yield f"{label} of its input {name}", text


def _function_facts(view: OnDemandView) -> Iterator[tuple[str, str]]:
    yield "function", f"{view.function} ({view.source_hash[:12]})"
    yield "request fields", ", ".join(sorted(f"{f.name} {f.dtype}" for f in view.request))


def _stored_facts(view: View, feature: str) -> Iterator[tuple[str, str]]:
    for label, text in _view_facts(view):
        if not label.startswith(("window ", "feature ")) or label.endswith(f" {feature}"):
            yield label.removesuffix(f" {feature}"), text


def _view_facts(view: View) -> Iterator[tuple[str, str]]:
    """Everything that a view's values depend on."""
    source = view.source
    yield "keys", ", ".join(sorted(f"{k.request} {k.dtype}" for k in view.join_keys)) or "none"
    yield from _ages(view)
    yield "source", source.name
    yield "event time", source.timestamp_field
    yield "knowledge time", source.created_timestamp_column or "none"
    yield "event id", source.event_id or "none"
    yield "field mapping", ", ".join(f"{a} -> {b}" for a, b in sorted(source.field_mapping.items())) or "none"
    for window in view.aggregations:
        yield f"window {window.name}", f"{window.function}({window.column}) over {format_span(window.window)}"
    for item in view.features:
        yield f"feature {item.name}", item.dtype


def _stored_values(view: View, needed: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What the stored values of the ``needed`` features depend on, whatever names requests give to the keys."""
    wanted = {f"{kind} {name}" for kind in ("window", "feature") for name in needed}
    for label, text in _view_facts(view):
        if label in wanted or not label.startswith(("window ", "feature ", "field mapping", "keys")):
            yield label, text
    yield "keys", ", ".join(sorted(f"{k.column} {k.dtype}" for k in view.join_keys)) or "none"
    for name in () if view.windowed else needed:
        yield f"column of {name}", view.source.column(name)


def _ages(view: View) -> Iterator[tuple[str, str]]:
    yield "ttl", format_span(view.ttl) if view.ttl else "none"
    yield "bucket", format_span(view.hop)


def _online_facts(view: View, needed: list[Field]) -> Iterator[tuple[str, str]]:
    """What reading the ``needed`` features depends on; one numeric type can be read as another, and sources do not matter."""
    types = {f.name: f.dtype for f in view.features}
    windows = {a.name: f"{a.function}({a.column}) over {format_span(a.window)}" for a in view.aggregations}
    for feature in needed:
        label = f"feature {view.name}:{feature.name}:"
        if feature.name in types:
            both_numeric = {types[feature.name], feature.dtype} <= NUMERIC_TYPES
            yield label, feature.dtype if both_numeric else types[feature.name]
        if feature.name in windows:
            yield f"{label} window", windows[feature.name]
    yield f"view {view.name}: keys", ", ".join(sorted(f"{k.column} {k.dtype}" for k in view.join_keys)) or "none"
    yield from ((f"view {view.name}: {label}", text) for label, text in _ages(view))
