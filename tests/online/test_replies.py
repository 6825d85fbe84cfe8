"""Replies of Redis are the same however they arrive, and whichever way they are parsed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from asof.online.redis.resp_decoding import FEW, HashReplies, Replies, UniformReplies

Value = bytes | None


def encoded(groups: Sequence[Sequence[Sequence[Value]]]) -> bytes:
    """The replies to HMGET commands in Redis's protocol."""
    parts = []
    for values in (reply for group in groups for reply in group):
        parts.append(b"*%d\r\n" % len(values))
        parts += [b"$-1\r\n" if v is None else b"$%d\r\n%b\r\n" % (len(v), v) for v in values]
    return b"".join(parts)


def taken(groups: Sequence[Sequence[Sequence[Value]]], cuts: Sequence[int]) -> list[list[list[Value]]]:
    """What is understood of the replies when they arrive in these pieces, and that only the last piece completes them."""
    data, replies = encoded(groups), HashReplies([len(g) for g in groups])
    bounds = sorted({0, *(c % (len(data) + 1) for c in cuts), len(data)})
    done = [replies.feed(data[a:b]) for a, b in pairwise(bounds)]
    assert done == [False] * (len(done) - 1) + [True]
    return [[list(reply) for reply in group] for group in replies.groups()]


values = st.none() | st.binary(max_size=12) | st.sampled_from([b"\r\n$1\r\n", b"*2\r\n", b"x" * 300])


@st.composite
def answers(draw: st.DrawFn) -> list[list[list[Value]]]:
    """Groups of replies; often all replies of a group have the same sizes, and often one of them differs."""
    groups = []
    for count in draw(st.lists(st.integers(0, 2 * FEW), min_size=1, max_size=3)):
        shape = draw(st.lists(values, max_size=3))
        group = [[None if v is None else bytes((b + i) % 256 for b in v) for v in shape] for i in range(count)]
        if group and shape and draw(st.booleans()):
            group[draw(st.integers(0, count - 1))][draw(st.integers(0, len(shape) - 1))] = draw(values)
        groups.append(group)
    groups[0] = groups[0] or [[None]]
    return groups


@given(answers(), st.lists(st.integers(0, 10**6), max_size=6))
def test_replies_in_pieces(groups: list[list[list[Value]]], cuts: list[int]) -> None:
    """Replies of equal and of different sizes, cut anywhere, are understood, and not a byte too early or too late."""
    assert taken(groups, cuts) == groups


def test_replies_byte_by_byte() -> None:
    """Many replies that arrive one byte at a time, the last of which is shorter, are understood."""
    even = [[b"%03d" % i, b"\r\n"] for i in range(3 * FEW)]
    assert taken([[[b"1"]], even], range(10_000)) == [[[b"1"]], even]
    uneven = [*even[:-1], [None, b""]]
    assert taken([[[b"1"]], uneven], range(10_000)) == [[[b"1"]], uneven]


def test_many_replies_of_one_size_stay_where_they_arrived() -> None:
    """They are a block, which can be used as the list of replies that it stands for."""
    group = [[b"%04d" % i, None] for i in range(2 * FEW)]
    replies = HashReplies([len(group)])
    assert replies.feed(encoded([group]))
    (block,) = replies.groups()
    assert isinstance(block, UniformReplies)
    assert len(block) == len(group)
    assert (block[3], block[-1], block[1:3]) == (group[3], group[-1], group[1:3])
    with pytest.raises(IndexError):
        _ = block[2 * FEW]


@pytest.mark.parametrize("count", [1, 2 * FEW])
def test_a_refused_command_is_an_error(count: int) -> None:
    """An error among the replies is raised, and it does not cut off the replies after it."""
    replies = HashReplies([count])
    said = b"-LOADING Redis is loading\r\n" + encoded([[[b"1"]] * (count - 1)])
    assert replies.feed(said)
    with pytest.raises(redis.ResponseError, match="LOADING"):
        replies.groups()


def test_single_replies() -> None:
    """Plain replies are parsed until all are there; errors are among them."""
    replies = Replies(3)
    assert not replies.feed(b":1\r\n-OOM ")
    assert replies.feed(b"full\r\n$1\r\nx\r\n")
    assert [str(r) for r in replies.found] == ["1", "OOM full", "b'x'"]
