"""Films: will the critics like it? Asked on the day of release.

What is known when: a film when it is released; its reviews thirty days later. Genres, cast and votes are lists; directors, genres and titles are
texts, and keys.
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
from feast.types import Array, Float64, Int64, String

import functions

director = Entity(name="director", join_keys=["director"], value_type=ValueType.STRING)
genre = Entity(name="genre", join_keys=["genre"], value_type=ValueType.STRING)
title = Entity(name="title", join_keys=["title"], value_type=ValueType.STRING)

films = FileSource(
    name="films",
    path="data/tables/films",
    file_format=DeltaFormat(),
    timestamp_field="released_at",
    created_timestamp_column="known_at",
    description="Films on the day of their release.",
    tags={
        "asof.id": "film_id",
        "asof.column.film_id": "int64",
        "asof.column.title": "string",
        "asof.column.director": "string",
        "asof.column.genre": "string",
        "asof.column.genres": "list[string] required",
        "asof.column.cast": "list[string] required",
        "asof.column.minutes": "float64 > 0",
        "asof.column.released_at": "timestamp",
        "asof.column.known_at": "timestamp",
    },
)

reviews = FileSource(
    name="reviews",
    path="data/tables/reviews",
    file_format=DeltaFormat(),
    timestamp_field="released_at",
    created_timestamp_column="known_at",
    field_mapping={"genres": "last_genres", "cast": "last_cast", "votes": "last_votes"},
    description="How films were reviewed, known thirty days after their release.",
    tags={
        "asof.id": "film_id",
        "asof.column.film_id": "int64",
        "asof.column.title": "string",
        "asof.column.director": "string",
        "asof.column.genre": "string",
        "asof.column.genres": "list[string] required",
        "asof.column.cast": "list[string] required",
        "asof.column.meter": "int64 in 0..100 required",
        "asof.column.votes": "list[int64] required",
        "asof.column.fresh": "int8 in 0..1 required",
        "asof.column.released_at": "timestamp",
        "asof.column.known_at": "timestamp",
    },
)

reviews_push = PushSource(name="reviews_push", batch_source=reviews)


def window(column: str, function: str, name: str, years: int) -> Aggregation:
    return Aggregation(column=column, function=function, time_window=timedelta(days=365.25 * years), name=name)


director_record = StreamFeatureView(
    name="director_record",
    description="How the director's films were reviewed.",
    entities=[director],
    source=reviews_push,
    timestamp_field="released_at",
    schema=[
        Field(name="director", dtype=String),
        Field(name="films_5y", dtype=Int64),
        Field(name="films_20y", dtype=Int64),
        Field(name="meter_5y", dtype=Float64),
        Field(name="meter_20y", dtype=Float64),
        Field(name="meter_min_20y", dtype=Int64),
        Field(name="meter_max_20y", dtype=Int64),
        Field(name="meter_std_20y", dtype=Float64),
        Field(name="last_meter", dtype=Int64),
        Field(name="last_title", dtype=String),
        Field(name="director_genres_20y", dtype=Int64),
    ],
    aggregations=[
        window("meter", "count", "films_5y", 5),
        window("meter", "count", "films_20y", 20),
        window("meter", "mean", "meter_5y", 5),
        window("meter", "mean", "meter_20y", 20),
        window("meter", "min", "meter_min_20y", 20),
        window("meter", "max", "meter_max_20y", 20),
        window("meter", "std", "meter_std_20y", 20),
        window("meter", "last", "last_meter", 20),
        window("title", "last", "last_title", 20),
        window("genre", "count_distinct", "director_genres_20y", 20),
    ],
)

genre_record = StreamFeatureView(
    name="genre_record",
    description="How films of the first-named genre were reviewed.",
    entities=[genre],
    source=reviews_push,
    timestamp_field="released_at",
    schema=[
        Field(name="genre", dtype=String),
        Field(name="genre_films_3y", dtype=Int64),
        Field(name="genre_meter_3y", dtype=Float64),
    ],
    aggregations=[
        window("meter", "count", "genre_films_3y", 3),
        window("meter", "mean", "genre_meter_3y", 3),
    ],
)

namesakes = StreamFeatureView(
    name="namesakes",
    description="Films of the same title in 50 years: remakes, mostly.",
    entities=[title],
    source=reviews_push,
    timestamp_field="released_at",
    schema=[
        Field(name="title", dtype=String),
        Field(name="namesakes_50y", dtype=Int64),
        Field(name="namesakes_meter_50y", dtype=Float64),
    ],
    aggregations=[
        window("meter", "count", "namesakes_50y", 50),
        window("meter", "mean", "namesakes_meter_50y", 50),
    ],
)

last_film = FeatureView(
    name="last_film",
    description="The director's last film that was reviewed: its genres, its cast, its votes (favourable, unfavourable).",
    entities=[director],
    source=reviews,
    ttl=timedelta(0),
    schema=[
        Field(name="director", dtype=String),
        Field(name="last_genres", dtype=Array(String)),
        Field(name="last_cast", dtype=Array(String)),
        Field(name="last_votes", dtype=Array(Int64)),
    ],
)

film = RequestSource(
    name="film",
    schema=[
        Field(name="title", dtype=String),
        Field(name="genres", dtype=Array(String)),
        Field(name="cast", dtype=Array(String)),
        Field(name="minutes", dtype=Float64),
    ],
)

film_context = on_demand_feature_view(
    sources=[film, last_film[["last_genres", "last_cast"]]],
    schema=[
        Field(name="runtime", dtype=Float64),
        Field(name="actors", dtype=Int64),
        Field(name="title_words", dtype=Array(String)),
        Field(name="title_length", dtype=Int64),
        Field(name="new_genres", dtype=Array(String)),
        Field(name="same_genres", dtype=Int64),
        Field(name="actors_again", dtype=Array(String)),
        Field(name="actors_again_share", dtype=Float64),
    ],
    mode="python",
)(functions.film_context)

films_v1 = FeatureService(name="films_v1", features=[director_record, genre_record, namesakes, last_film, film_context])
