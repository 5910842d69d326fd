"""A stand-in for an Aurora scheduler, a process of its own: ``python -m services.aurora_peer``.

It stands on the official Thrift stack only, the compiler's code and the package `thrift`, so that
mistakes of the client cannot cancel out. `server` speaks HTTP, `handler` answers calls, `rules`
refuses jobs, `machine` moves tasks, `executor` runs them, `faults` is what may go wrong.
"""
