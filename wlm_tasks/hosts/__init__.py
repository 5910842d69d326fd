"""Other hosts and this one: running scripts on them, over SSH where they are elsewhere."""
