"""Consumes events from Redis Streams or Kafka into the offline tables and the online store, each event once on both sides."""

from asof.streams.consumer import Consumer, Progress
from asof.streams.messages import DeadLetter, EventSource, Message
from asof.streams.producer import Producer
from asof.streams.status import StreamStatus, statuses
from asof.streams.table_sink import BatchResult, TableSink

__all__ = [
    "BatchResult",
    "Consumer",
    "DeadLetter",
    "EventSource",
    "Message",
    "Producer",
    "Progress",
    "StreamStatus",
    "TableSink",
    "statuses",
]
