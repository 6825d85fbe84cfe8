"""Feature repos on data of others, and the command that runs each of them through the whole loop."""
