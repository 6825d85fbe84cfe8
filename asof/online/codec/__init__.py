"""Encodes and decodes stored rows, events and buckets. The format is described in ``docs/online-layout.md``."""
