"""Pages that were rendered before, by product."""


class PageCache:
    """A cache in memory, used on the event loop and in threads: each step is one dict call."""

    def __init__(self) -> None:
        self._pages: dict[int, str] = {}

    def get(self, product_id: int) -> str | None:
        """Return the page, if it was kept."""
        return self._pages.get(product_id)

    def put(self, product_id: int, page: str) -> None:
        """Keep the page."""
        self._pages[product_id] = page

    async def invalidate(self, product_id: int) -> None:
        """Forget the page. Async, so that as a task it needs no thread."""
        self._pages.pop(product_id, None)
