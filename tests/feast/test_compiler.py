"""Feast definitions become contracts; what cannot keep the law is refused by name."""

import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest
from feast import Aggregation, Entity, FeatureService, FeatureView, Field, FileSource, PushSource, StreamFeatureView
from feast.data_format import DeltaFormat
from feast.types import Array, FeastType, Float32, Float64, Int64, String
from feast.value_type import ValueType

from asof.errors import NotFoundError, SettingsError
from asof.feast.compiler import DEFAULT_HOP, compile_service, compile_view

BUYER = Entity(name="buyer", join_keys=["buyer_id"], value_type=ValueType.INT64)
ORDERS = FileSource(
    name="orders", path="data/orders", file_format=DeltaFormat(), timestamp_field="ordered_at",
    created_timestamp_column="known_at", field_mapping={"amt": "amount"}, tags={"asof.id": "order_id"},
)  # fmt: skip
PUSHED = PushSource(name="orders_push", batch_source=ORDERS)


def _windowed(**changes: object) -> StreamFeatureView:
    arguments = {
        "name": "spending", "entities": [BUYER], "source": PUSHED, "timestamp_field": "ordered_at",
        "schema": [Field(name="buyer_id", dtype=Int64), Field(name="mean_7d", dtype=Float64)],
        "aggregations": [Aggregation(column="amount", function="mean", time_window=timedelta(days=7), name="mean_7d")],
        **changes,
    }  # fmt: skip
    return StreamFeatureView(**arguments)


def _plain() -> FeatureView:
    schema = [
        Field(name="buyer_id", dtype=Int64),
        Field(name="city", dtype=String),
        Field(name="taste", dtype=Array(Float32)),
    ]
    return FeatureView(name="profile", entities=[BUYER], ttl=timedelta(days=1), source=ORDERS, schema=schema)


def test_a_windowed_view_is_compiled_whole() -> None:
    """Source, keys, windows and identity of events are all in the compiled view."""
    view = compile_view(_windowed())
    assert [(k.column, k.request, k.dtype) for k in view.join_keys] == [("buyer_id", "buyer_id", "int64")]
    assert (view.aggregations[0].name, view.aggregations[0].window, view.hop) == ("mean_7d", 7 * 86_400_000_000, 1)
    assert (view.source.format, view.source.event_id, view.source.push_name) == ("delta", "order_id", "orders_push")
    assert (view.source.timestamp_field, view.source.created_timestamp_column) == ("ordered_at", "known_at")
    assert view.source.column("amount") == "amt"


def test_tiling_sets_the_hop() -> None:
    """A tiled view counts in buckets of its hop, five minutes where it names none."""
    assert compile_view(_windowed(enable_tiling=True)).hop == DEFAULT_HOP
    assert compile_view(_windowed(enable_tiling=True, tiling_hop_size=timedelta(hours=1))).hop == 3_600_000_000


@pytest.mark.parametrize(
    ("aggregation", "message"),
    [
        (Aggregation(column="amount", function="mean", name="mean_7d"), "without a time_window"),
        (Aggregation(column="amount", function="median", time_window=timedelta(days=7), name="mean_7d"), "'median'"),
        (
            Aggregation(column="amount", function="mean", time_window=timedelta(days=7), name="other"),
            "missing in the schema: \\['other'\\]",
        ),
    ],
)
def test_windows_that_cannot_keep_the_law_are_refused(aggregation: Aggregation, message: str) -> None:
    """No length, an unknown function, or features that no window produces: each is named."""
    with pytest.raises(SettingsError, match=message):
        compile_view(_windowed(aggregations=[aggregation]))


@pytest.mark.parametrize("dtype", [Float32, Float64, Array(Int64)])
def test_keys_without_one_spelling_are_refused(dtype: FeastType) -> None:
    """1.0 and 1 would be one key in training and two while serving."""
    schema = [Field(name="buyer_id", dtype=dtype), Field(name="city", dtype=String)]
    entity = Entity(name="buyer", join_keys=["buyer_id"], value_type=dtype.to_value_type())
    view = FeatureView(name="profile", entities=[entity], source=ORDERS, schema=schema)
    view.entity_columns = schema[:1]
    with pytest.raises(SettingsError, match=r"join key 'buyer_id' of view 'profile' is .*expected one of bool, bytes"):
        compile_view(view)


def test_plain_types_are_kept() -> None:
    """Types are Feast's names in lower case, nested ones included, and ttl is microseconds."""
    view = compile_view(_plain())
    assert [(f.name, f.dtype) for f in view.features] == [("city", "string"), ("taste", "array(float32)")]
    assert (view.ttl, view.windowed) == (86_400_000_000, False)


def test_alias_and_join_key_map_reach_the_contract() -> None:
    """A view under another name and other keys keeps both in the service's contract, in the service's order."""
    friend = _plain().with_name("friend").with_join_key_map({"buyer_id": "friend_id"})
    service = FeatureService(name="orders_v1", features=[friend[["city"]], _windowed()])
    contract = compile_service(service, [_plain(), _windowed()], "shop")
    assert [(f.name, f.view) for f in contract.features] == [("city", "friend"), ("mean_7d", "spending")]
    assert [k.name for k in contract.keys] == ["friend_id", "buyer_id"]
    assert contract.view("friend").join_keys[0].column == "buyer_id"


def test_a_view_used_twice_has_full_names() -> None:
    """Two uses of one view are two views of the contract, stored once; all features of the service carry their view's alias."""
    uses = [_plain().with_name(n).with_join_key_map({"buyer_id": f"{n}_id"}) for n in ("sender", "receiver")]
    service = FeatureService(name="orders_v1", features=[*uses, _windowed()])
    contract = compile_service(service, [_plain(), _windowed()], "shop")
    assert contract.feature_names == (
        "sender__city", "sender__taste", "receiver__city", "receiver__taste", "spending__mean_7d",
    )  # fmt: skip
    assert [(v.name, v.alias) for v in contract.views[:2]] == [(_plain().name, n) for n in ("sender", "receiver")]
    assert [k.name for k in contract.keys] == ["sender_id", "receiver_id", "buyer_id"]
    assert contract.view_fingerprint(contract.view("sender")) != ""


def test_unknown_views_and_equal_names_are_refused() -> None:
    """A service over a view that is gone, or with two features of one name, does not compile."""
    service = FeatureService(name="orders_v1", features=[_plain(), _plain()])
    with pytest.raises(NotFoundError, match="feature view"):
        compile_service(service, [_windowed()], "shop")
    with pytest.raises(SettingsError, match="two features named 'city'"):
        compile_service(service, [_plain()], "shop")


@pytest.fixture
def on_demand_repo(tmp_path: Path):
    """A repo folder with an on-demand view declared by decorator; its module is forgotten afterwards."""
    (tmp_path / "definitions_od.py").write_text(
        textwrap.dedent("""
        from feast import Field, RequestSource
        from feast.on_demand_feature_view import on_demand_feature_view
        from feast.types import Float64

        FACTOR = 2.0

        def scale(values):
            return [v * FACTOR for v in values]

        @on_demand_feature_view(
            sources=[RequestSource(name="request", schema=[Field(name="amount", dtype=Float64)])],
            schema=[Field(name="double", dtype=Float64)], mode="python",
        )
        def doubled(inputs):
            return {"double": scale(inputs["amount"])}

        """)
    )
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    sys.modules.pop("definitions_od", None)


def test_decorated_functions_are_named_not_pickled(on_demand_repo: Path) -> None:
    """The contract names the function's file although Feast's decorator hides its module, and the name computes."""
    import definitions_od

    from asof.contract.on_demand import compute_view

    service = FeatureService(name="s", features=[definitions_od.doubled])
    contract = compile_service(service, [definitions_od.doubled], "shop", on_demand_repo)
    assert contract.on_demand[0].function == "definitions_od:doubled"
    assert [f.name for f in contract.request_fields] == ["amount"]
    assert compute_view(contract.on_demand[0], {"amount": [1.0, 2.5]}) == {"double": [2.0, 5.0]}


def test_the_source_hash_follows_what_the_function_reaches(on_demand_repo: Path) -> None:
    """A changed helper or constant changes the hash; a comment does not."""
    import definitions_od

    from asof.feast.compiler import source_hash

    path = on_demand_repo / "definitions_od.py"
    text = path.read_text()

    def hashed(changed: str) -> str:
        import linecache

        path.write_text(changed)
        linecache.clearcache()
        return source_hash(definitions_od, "doubled")

    original = hashed(text)
    assert hashed(text + "\n# a comment\nUNRELATED = 1\n") == original
    assert hashed(text.replace("FACTOR = 2.0", "FACTOR = 3.0")) != original
    assert hashed(text.replace("v * FACTOR", "v + FACTOR")) != original
