"""The Celery tasks and the engine they share."""
