"""Alembic's entry: runs on the connection that `Database.upgrade` hands over."""

from alembic import context

from wlm_tasks.state import alerts_schema as _more_tables  # noqa: F401
from wlm_tasks.state.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=False,  # the transaction is the caller's
)
context.run_migrations()
