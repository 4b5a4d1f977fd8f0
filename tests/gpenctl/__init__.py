"""gpenctl, run as a user runs it."""
