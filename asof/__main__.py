"""``python -m asof`` is the ``asof`` command."""

from asof.cli import main

main()
