"""Images: upload, thumbnails, search."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Query, UploadFile, status
from fastapi.responses import FileResponse
from pydantic import BaseModel

from fastapi_tasks import Tasks
from shop.fields import Id, Text
from shop.media import (
    PIXELS,
    NotAnImageError,
    Size,
    make_thumbnail,
    original_path,
    suffix_of,
    thumbnail_path,
)
from shop.resources import Shop, Transaction
from shop.search import find_images, index_image

router = APIRouter(tags=["images"])

MAX_BYTES = 10_000_000


class Image(BaseModel):
    """An uploaded image; its thumbnails appear shortly after the response."""

    id: Id
    title: str
    thumbnails: list[str]

    @classmethod
    def make(cls, image_id: int, title: str) -> "Image":
        """Add where the thumbnails are."""
        paths = [f"/images/{image_id}/{size}" for size in PIXELS]
        return cls(id=image_id, title=title, thumbnails=paths)


@router.post("/upload", status_code=status.HTTP_201_CREATED)
def upload(
    image: UploadFile, title: Annotated[Text, Form()], db: Transaction, shop: Shop, tasks: Tasks
) -> Image:
    """Store an image. It is indexed after the commit and resized after the response."""
    data = image.file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise HTTPException(413, f"an image may have {MAX_BYTES} bytes at most")
    try:
        suffix = suffix_of(data)
    except NotAnImageError as error:
        raise HTTPException(415, str(error)) from error
    (image_id,) = db.execute(
        "INSERT INTO images (title, suffix) VALUES (?, ?) RETURNING id", (title, suffix)
    ).fetchone()
    original = original_path(shop.images, image_id, suffix)
    original.write_bytes(data)
    tasks.after_route.task(name="index").schedule(index_image, shop.database, image_id)
    for size in PIXELS:
        thumbnail = tasks.after_response.task(name=f"thumbnail {size}")
        thumbnail.schedule(make_thumbnail, original, size)
    return Image.make(image_id, title)


@router.get("/images/{image_id}/{size}", response_class=FileResponse)
def show_thumbnail(image_id: Id, size: Size, db: Transaction, shop: Shop) -> Path:
    """Serve a thumbnail."""
    row = db.execute("SELECT suffix FROM images WHERE id = ?", (image_id,)).fetchone()
    if row is None:
        raise HTTPException(404, f"there is no image {image_id}")
    path = thumbnail_path(original_path(shop.images, image_id, row["suffix"]), size)
    if not path.exists():
        raise HTTPException(404, f"the {size} thumbnail of image {image_id} is not ready yet")
    return path


@router.get("/search")
def search(q: Annotated[Text, Query()], db: Transaction) -> list[Image]:
    """Find images by the words of their title."""
    return [Image.make(row["id"], row["title"]) for row in find_images(db, q)]
