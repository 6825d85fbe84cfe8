"""On-demand functions. The service imports this file, so it must not import Feast."""


def film_context(inputs: dict[str, list]) -> dict[str, list]:
    """The film itself, and what it shares with the director's last one: genres and actors. A missing list is an empty one."""
    rows = range(len(inputs["title"]))
    genres, cast, earlier_genres, earlier_cast = (
        [list(inputs[name][row] if inputs[name][row] is not None else ()) for row in rows]
        for name in ("genres", "cast", "last_genres", "last_cast")
    )
    again = [[name for name in cast[row] if name in earlier_cast[row]] for row in rows]
    return {
        "runtime": list(inputs["minutes"]),
        "actors": [len(names) for names in cast],
        "title_words": [[word.casefold() for word in (title or "").split()] for title in inputs["title"]],
        "title_length": [len(title or "") for title in inputs["title"]],
        "new_genres": [[name for name in genres[row] if name not in earlier_genres[row]] for row in rows],
        "same_genres": [sum(name in earlier_genres[row] for name in genres[row]) for row in rows],
        "actors_again": again,
        "actors_again_share": [len(again[row]) / len(cast[row]) if cast[row] else None for row in rows],
    }
