"""The long-running loops that keep everything going."""
