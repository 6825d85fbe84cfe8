"""Flights out of New York: will a flight land more than 15 minutes late? Asked an hour before its scheduled departure.

What is known when: a flight's schedule, plane included, when it is asked about; its departure when it departs; its delay when it has
landed, never before; an observation of the weather when its hour is over.
"""

from datetime import timedelta

from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RequestSource,
    StreamFeatureView,
    ValueType,
)
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp

import functions

carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
plane = Entity(name="plane", join_keys=["tailnum"], value_type=ValueType.STRING)
origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
destination = Entity(name="destination", join_keys=["dest"], value_type=ValueType.STRING)

schedule = FileSource(
    name="schedule",
    path="data/tables/schedule",
    file_format=DeltaFormat(),
    timestamp_field="asked_at",
    description="Flights, an hour before their scheduled departure.",
    tags={
        "asof.id": "flight_id",
        "asof.column.flight_id": "int64",
        "asof.column.carrier": "string",
        "asof.column.tailnum": "string",
        "asof.column.origin": "string in {EWR, JFK, LGA}",
        "asof.column.dest": "string",
        "asof.column.distance": "int64 > 0 required",
        "asof.column.block_minutes": "int64 in 0..1440 required",
        "asof.column.scheduled_at": "timestamp required",
        "asof.column.asked_at": "timestamp",
    },
)

departures = FileSource(
    name="departures",
    path="data/tables/departures",
    file_format=DeltaFormat(),
    timestamp_field="departed_at",
    description="Departures, with their delay in minutes.",
    tags={
        "asof.id": "flight_id",
        "asof.column.flight_id": "int64",
        "asof.column.origin": "string",
        "asof.column.dep_delay": "int64 required",
        "asof.column.departed_at": "timestamp",
    },
)

landings = FileSource(
    name="landings",
    path="data/tables/landings",
    file_format=DeltaFormat(),
    timestamp_field="landed_at",
    description="Arrivals, with their delay in minutes.",
    tags={
        "asof.id": "flight_id",
        "asof.column.flight_id": "int64",
        "asof.column.carrier": "string",
        "asof.column.tailnum": "string",
        "asof.column.origin": "string",
        "asof.column.dest": "string",
        "asof.column.arr_delay": "int64 required",
        "asof.column.late": "int8 in 0..1 required",
        "asof.column.landed_at": "timestamp",
    },
)

weather = FileSource(
    name="weather",
    path="data/tables/weather",
    file_format=DeltaFormat(),
    timestamp_field="observed_at",
    created_timestamp_column="known_at",
    description="Hourly weather at the origin, known when the hour is over.",
    tags={
        "asof.id": "observation_id",
        "asof.column.observation_id": "string",
        "asof.column.origin": "string",
        "asof.column.temp": "float64",
        "asof.column.humid": "float64 in 0..100",
        "asof.column.wind_speed": "float64 >= 0",
        "asof.column.wind_gust": "float64 >= 0",
        "asof.column.precip": "float64 >= 0",
        "asof.column.pressure": "float64 > 0",
        "asof.column.visib": "float64 >= 0",
        "asof.column.observed_at": "timestamp",
        "asof.column.known_at": "timestamp",
    },
)

planes = FileSource(
    name="planes",
    path="data/tables/planes",
    file_format=DeltaFormat(),
    timestamp_field="listed_at",
    description="The register of planes.",
    tags={
        "asof.id": "tailnum",
        "asof.column.tailnum": "string",
        "asof.column.manufacturer": "string",
        "asof.column.engine": "string",
        "asof.column.engines": "int64 > 0",
        "asof.column.seats": "int64 > 0",
        "asof.column.built": "int64",
        "asof.column.listed_at": "timestamp",
    },
)

departures_push = PushSource(name="departures_push", batch_source=departures)
landings_push = PushSource(name="landings_push", batch_source=landings)


def window(column: str, function: str, name: str, **span: int) -> Aggregation:
    return Aggregation(column=column, function=function, time_window=timedelta(**span), name=name)


carrier_delays = StreamFeatureView(
    name="carrier_delays",
    description="How late the carrier's flights have landed.",
    entities=[carrier],
    source=landings_push,
    timestamp_field="landed_at",
    schema=[
        Field(name="carrier", dtype=String),
        Field(name="carrier_landings_1d", dtype=Int64),
        Field(name="carrier_late_share_3h", dtype=Float64),
        Field(name="carrier_late_share_1d", dtype=Float64),
        Field(name="carrier_late_share_7d", dtype=Float64),
    ],
    aggregations=[
        window("late", "count", "carrier_landings_1d", days=1),
        window("late", "mean", "carrier_late_share_3h", hours=3),
        window("late", "mean", "carrier_late_share_1d", days=1),
        window("late", "mean", "carrier_late_share_7d", days=7),
    ],
)

plane_delays = StreamFeatureView(
    name="plane_delays",
    description="What the plane has flown, and how late it landed.",
    entities=[plane],
    source=landings_push,
    timestamp_field="landed_at",
    schema=[
        Field(name="tailnum", dtype=String),
        Field(name="plane_landings_1d", dtype=Int64),
        Field(name="plane_last_delay_1d", dtype=Int64),
        Field(name="plane_delay_max_7d", dtype=Int64),
        Field(name="plane_destinations_7d", dtype=Int64),
    ],
    aggregations=[
        window("arr_delay", "count", "plane_landings_1d", days=1),
        window("arr_delay", "last", "plane_last_delay_1d", days=1),
        window("arr_delay", "max", "plane_delay_max_7d", days=7),
        window("dest", "count_distinct", "plane_destinations_7d", days=7),
    ],
)

route_delays = StreamFeatureView(
    name="route_delays",
    description="How late flights on the route have landed.",
    entities=[origin, destination],
    source=landings_push,
    timestamp_field="landed_at",
    schema=[
        Field(name="origin", dtype=String),
        Field(name="dest", dtype=String),
        Field(name="route_delay_mean_2d", dtype=Float64),
        Field(name="route_delay_mean_28d", dtype=Float64),
        Field(name="route_delay_std_28d", dtype=Float64),
    ],
    aggregations=[
        window("arr_delay", "mean", "route_delay_mean_2d", days=2),
        window("arr_delay", "mean", "route_delay_mean_28d", days=28),
        window("arr_delay", "std", "route_delay_std_28d", days=28),
    ],
)

origin_departures = StreamFeatureView(
    name="origin_departures",
    description="How busy and how late departures from the airport are right now.",
    entities=[origin],
    source=departures_push,
    timestamp_field="departed_at",
    schema=[
        Field(name="origin", dtype=String),
        Field(name="origin_departures_1h", dtype=Int64),
        Field(name="origin_delay_mean_1h", dtype=Float64),
        Field(name="origin_delay_mean_3h", dtype=Float64),
        Field(name="origin_delay_max_3h", dtype=Int64),
    ],
    aggregations=[
        window("dep_delay", "count", "origin_departures_1h", hours=1),
        window("dep_delay", "mean", "origin_delay_mean_1h", hours=1),
        window("dep_delay", "mean", "origin_delay_mean_3h", hours=3),
        window("dep_delay", "max", "origin_delay_max_3h", hours=3),
    ],
)

weather_now = FeatureView(
    name="weather_now",
    description="The latest weather that is known at the airport, not older than three hours.",
    entities=[origin],
    source=weather,
    ttl=timedelta(hours=3),
    schema=[
        Field(name="origin", dtype=String),
        *(
            Field(name=name, dtype=Float64)
            for name in ("temp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
        ),
    ],
)

plane_facts = FeatureView(
    name="plane_facts",
    description="What the register says of the plane.",
    entities=[plane],
    source=planes,
    ttl=timedelta(0),
    schema=[
        Field(name="tailnum", dtype=String),
        Field(name="manufacturer", dtype=String),
        Field(name="engine", dtype=String),
        Field(name="engines", dtype=Int64),
        Field(name="seats", dtype=Int64),
        Field(name="built", dtype=Int64),
    ],
)

flight = RequestSource(
    name="flight",
    schema=[
        Field(name="distance", dtype=Int64),
        Field(name="block_minutes", dtype=Int64),
        Field(name="scheduled_at", dtype=UnixTimestamp),
    ],
)

flight_context = on_demand_feature_view(
    sources=[flight],
    schema=[
        Field(name="miles", dtype=Int64),
        Field(name="minutes", dtype=Int64),
        Field(name="hour", dtype=Int64),
        Field(name="weekday", dtype=Int64),
    ],
    mode="python",
)(functions.flight_context)

lateness_v1 = FeatureService(
    name="lateness_v1",
    features=[
        carrier_delays,
        plane_delays,
        route_delays,
        origin_departures,
        weather_now,
        plane_facts,
        flight_context,
    ],
)
