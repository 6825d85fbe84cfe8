"""On-demand functions. The service imports this file, so it must not import Feast."""


def match_context(inputs: dict[str, list]) -> dict[str, list]:
    """The match itself: its matchday in the season, and the day of the week (Monday is 0)."""
    return {
        "matchday": list(inputs["round"]),
        "weekday": [moment and moment.weekday() for moment in inputs["kick_off"]],
    }
