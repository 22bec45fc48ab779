"""Full-text search over image titles, with SQLite's FTS5."""

import sqlite3

from shop.database import Database


def index_image(database: Database, image_id: int) -> None:
    """Add a stored image to the index. It reads the image's row, which must be committed."""
    with database.transaction() as db:
        db.execute(
            "INSERT INTO image_index (rowid, title) SELECT id, title FROM images WHERE id = ?",
            (image_id,),
        )


def find_images(db: sqlite3.Connection, words: str) -> list[sqlite3.Row]:
    """Return `id`, `title` and `suffix` of images with all `words`, the best match first."""
    # Quoted, so that a word is never read as an operator; starred, so that "tea" finds a teapot.
    query = " ".join('"{}"*'.format(word.replace('"', '""')) for word in words.split())
    return db.execute(
        "SELECT images.* FROM image_index JOIN images ON images.id = image_index.rowid"
        " WHERE image_index MATCH ? ORDER BY rank",
        (query,),
    ).fetchall()
