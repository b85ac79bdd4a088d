"""What Alembic runs to migrate: in the transaction it is given, so that a step that fails leaves nothing behind."""

from alembic import context

from quartzite.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
