"""A small shop that shows what background tasks are for. Start it with `make run`."""
