"""The rows: the truth about every experiment."""
