"""The SQLite database: its tables, and transactions on it."""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

SCHEMA = """
PRAGMA journal_mode = WAL; -- readers and a writer do not wait for each other
CREATE TABLE IF NOT EXISTS users (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS products (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, price INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY, product_id INTEGER NOT NULL REFERENCES products (id),
    quantity INTEGER NOT NULL, status TEXT NOT NULL DEFAULT 'pending');
CREATE TABLE IF NOT EXISTS images (
    id INTEGER PRIMARY KEY, title TEXT NOT NULL, suffix TEXT NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS image_index USING fts5 (title);
INSERT OR IGNORE INTO products VALUES (1, 'Teapot', 1900), (2, 'Lamp', 4500), (3, 'Chair', 8900);
"""


class Database:
    """The database file at `path`, made with its tables and three products if it is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(self._connect()) as connection:
            connection.executescript(SCHEMA)

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Commit at the end of the block, or roll back if it raises."""
        with closing(self._connect()) as connection, connection:
            yield connection

    def _connect(self) -> sqlite3.Connection:
        # FastAPI may open, use and close it in three threads, though never at the same time.
        connection = sqlite3.connect(self._path, timeout=10, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        return connection
