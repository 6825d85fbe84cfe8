"""Will a flight land more than 15 minutes late?"""

from asof.training.model import Fit, LabelledRows, Model, Split

late = Model(
    name="late",
    service="lateness_v1",
    rows=LabelledRows(
        table="schedule",
        event_time="asked_at",
        id="flight_id",
        keys=("carrier", "tailnum", "origin", "dest"),
        label="late",
        label_table="landings",
    ),
    label_delay="1 hour",
    split=Split(delay="1 day"),
    fit=Fit(parameters={"num_leaves": 31, "learning_rate": 0.1, "min_data_in_leaf": 100}),
    unit="tailnum",
)
