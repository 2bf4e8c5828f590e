"""Refusals that no command can mend, and why."""

NO_COMMAND: dict[str, str] = {}
