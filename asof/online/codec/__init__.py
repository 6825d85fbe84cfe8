"""Stored rows, events and buckets as bytes, and back. The format is described in ``docs/online-layout.md``."""
