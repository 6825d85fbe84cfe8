"""Events as they happen: from Redis Streams or Kafka into the offline tables and the online store, each event once on both sides."""

from asof.streams.consumer import Consumer, Progress
from asof.streams.intake import Intake, Outcome
from asof.streams.messages import Letter, Message, Source
from asof.streams.sending import Sender
from asof.streams.status import StreamStatus, statuses

__all__ = [
    "Consumer",
    "Intake",
    "Letter",
    "Message",
    "Outcome",
    "Progress",
    "Sender",
    "Source",
    "StreamStatus",
    "statuses",
]
