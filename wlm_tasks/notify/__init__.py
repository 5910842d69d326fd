"""Telling people: `compose` makes messages of notices, each `Notifier` passes them on one way."""
