"""On-demand functions. The service imports this file, so it must not import Feast."""

from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")


def flight_context(inputs: dict[str, list]) -> dict[str, list]:
    """What the schedule says of the flight itself; hour and weekday (Monday is 0) are those of New York."""
    local = [m and m.astimezone(NEW_YORK) for m in inputs["scheduled_at"]]
    return {
        "miles": list(inputs["distance"]),
        "minutes": list(inputs["block_minutes"]),
        "hour": [m and m.hour for m in local],
        "weekday": [m and m.weekday() for m in local],
    }
