"""Calls into Feast end in one line that says why."""

import pytest

from asof.errors import SettingsError
from asof.feast.calls import feast_call


@feast_call("reading the definitions")
def stops():
    """Ends as Feast does for a setting that it does not know: prints the reason and exits."""
    print("no such   setting:\nthread")
    raise SystemExit(1)


def test_the_reason_that_feast_prints_before_it_ends_is_told():
    """What Feast printed before it ended the process is the reason in the error."""
    with pytest.raises(SettingsError, match=r"^reading the definitions: Feast stopped: no such setting: thread$"):
        stops()
