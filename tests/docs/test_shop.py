"""The example shop, driven over HTTP: a uvicorn process with uvloop, real mails and images."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import httpx2
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from PIL import Image

ROOT = Path(__file__).parents[2]
TIMEOUT = 40.0  # seconds, for whatever the process is waited for

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str) -> T:
    """Ask another process again and again, until its answer is true."""
    deadline = time.monotonic() + TIMEOUT
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)
    return answer


@dataclass
class Shop:
    """A running shop."""

    process: subprocess.Popen[bytes]
    client: httpx2.Client
    data: Path
    log: Path

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send JSON to an endpoint that makes something, and return what it made."""
        response = self.client.post(path, json=body)
        assert response.status_code == 201, response.text
        return response.json()

    def timeline(self, request: str) -> dict[str, Any]:
        """The latest such request, once all its tasks have finished."""

        def ended() -> Any:
            for entry in self.client.get("/timeline").json():
                if entry["request"] == request:
                    return entry if all(t["finished"] for t in entry["tasks"]) else None
            return None

        entry: dict[str, Any] = until(ended, f"tasks of {request}")
        for task in entry["tasks"]:
            assert 0 <= task["scheduled"] <= task["started"] <= task["finished"]
            assert task["scheduled"] <= entry["endpoint_returned"] <= entry["response_out"]
        return entry

    def stop(self) -> str:
        """End it as a deploy does, and return its log."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT) == -signal.SIGTERM
        return self.log.read_text()


@contextmanager
def run_shop(folder: Path, **environment: str) -> Generator[Shop]:
    """Serve the shop as `make run` does, on a free port, with warnings as errors."""
    log = folder / "server.log"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SHOP_", "SMTP_"))}
    command = "-W error -m uvicorn shop.app:app --app-dir docs/examples --loop uvloop --port 0"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command.split()],
            cwd=ROOT,
            env=clean | {"SHOP_DATA": str(folder / "data")} | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def url() -> str | None:
        assert process.poll() is None, log.read_text()
        found = re.search(r"running on (http://\S+)", log.read_text())
        return found[1] if found else None

    try:
        with httpx2.Client(base_url=until(url, "start"), trust_env=False) as client:
            yield Shop(process, client, folder / "data", log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    """One shop for all tests that do not stop it."""
    with run_shop(tmp_path_factory.mktemp("shop"), SHOP_CHARGE_SECONDS="0.05") as shop:
        yield shop
        assert "Traceback" not in shop.stop()


def of(entry: dict[str, Any], name: str) -> Any:
    """The task of that name."""
    (task,) = (task for task in entry["tasks"] if task["name"] == name)
    return task


def picture(kind: str) -> bytes:
    """A real image of 1200 x 600 pixels, red on the left and blue on the right."""
    image = Image.new("RGB", (1200, 600), "red")
    image.paste("blue", (600, 0, 1200, 600))
    file = BytesIO()
    if kind == "jpeg":
        exif = Image.Exif()
        exif[0x0112] = 6  # what a phone held upright writes: turn it by 90 degrees to show it
        image.save(file, "JPEG", exif=exif)
    else:
        image.save(file, "PNG")
    return file.getvalue()


def test_a_new_user_gets_a_mail_after_the_response(shop: Shop) -> None:
    """The mail of `POST /users` is sent after the response, arrives, and is kept in a folder."""
    user = shop.post("/users", {"name": "Zoë", "email": "zoe@example.org"})
    assert user == {"id": 1, "name": "Zoë", "email": "zoe@example.org"}
    entry = shop.timeline("POST /users")
    assert of(entry, "welcome mail")["state"] == "succeeded"
    assert of(entry, "welcome mail")["started"] >= entry["response_out"]
    (mail,) = shop.client.get("/mailbox").json()
    assert mail["to"] == "zoe@example.org"
    assert "Hello Zoë" in mail["text"]
    assert len(list((shop.data / "mailbox" / "new").iterdir())) == 1


def test_an_order_has_tasks_at_all_three_moments(shop: Shop) -> None:
    """Analytics starts at once, the charge after the commit, the audit after the response."""
    order = shop.post("/orders", {"product_id": 1, "quantity": 7})
    assert order["status"] == "pending"
    entry = shop.timeline("POST /orders")
    charge = of(entry, "charge")
    assert entry["endpoint_returned"] <= charge["started"] <= entry["response_out"]
    assert of(entry, "audit")["started"] >= entry["response_out"]
    assert of(entry, "analytics")["started"] <= of(entry, "audit")["started"]
    assert {task["state"] for task in entry["tasks"]} == {"succeeded"}
    assert shop.client.get(f"/orders/{order['id']}").json() == order | {"status": "charged"}
    for path in ("/analytics", "/audit"):
        line = shop.client.get(path).json()[-1]
        assert (line["event"], line["product_id"], line["quantity"]) == ("order", 1, 7)


def test_an_order_that_the_gateway_refuses_is_refunded(shop: Shop) -> None:
    """The error handler of the charge refunds the order; nobody else hears of the error."""
    response = shop.client.post("/orders?fail=1", json={"product_id": 2, "quantity": 1})
    assert response.status_code == 201
    assert of(shop.timeline("POST /orders"), "charge")["state"] == "failed"
    assert shop.client.get(f"/orders/{response.json()['id']}").json()["status"] == "refunded"


def test_an_order_that_is_refused_is_audited_and_not_charged(shop: Shop) -> None:
    """The audit line is written when the endpoint raises, too; there is nothing to charge."""
    before = shop.client.get("/audit").json()
    response = shop.client.post("/orders", json={"product_id": 99, "quantity": 1})
    assert (response.status_code, response.json()["detail"]) == (404, "there is no product 99")
    entry = shop.timeline("POST /orders")
    assert [task["name"] for task in entry["tasks"]] == ["analytics", "audit"]
    assert entry["status"] == 404
    (line,) = shop.client.get("/audit").json()[len(before) :]
    assert line["product_id"] == 99


@pytest.mark.parametrize(
    ("kind", "size"), [("png", (320, 160)), ("jpeg", (160, 320))], ids=["png", "jpeg"]
)
def test_an_uploaded_image_is_resized_and_found(
    shop: Shop, kind: str, size: tuple[int, int]
) -> None:
    """An upload gets three upright thumbnails after the response, and a search finds it."""
    response = shop.client.post(
        "/upload", data={"title": f"A {kind} teapot"}, files={"image": picture(kind)}
    )
    assert response.status_code == 201, response.text
    image = response.json()
    entry = shop.timeline("POST /upload")
    assert of(entry, "index")["started"] >= entry["endpoint_returned"]
    for name in ("small", "medium", "large"):
        assert of(entry, f"thumbnail {name}")["started"] >= entry["response_out"]
    thumbnails = [Image.open(BytesIO(shop.client.get(p).content)) for p in image["thumbnails"]]
    assert [max(thumbnail.size) for thumbnail in thumbnails] == [96, 320, 960]
    assert thumbnails[1].size == size
    assert thumbnails[1].format == kind.upper()
    assert shop.client.get("/search", params={"q": f"{kind} teap"}).json() == [image]


@pytest.mark.parametrize("words", ["nothing of the kind", '"', "AND", "(", "teapot NOT"])
def test_a_search_takes_any_words(shop: Shop, words: str) -> None:
    """What is an operator to the index is a word to the shop."""
    response = shop.client.get("/search", params={"q": words})
    assert (response.status_code, response.json()) == (200, [])


def test_a_changed_product_gets_a_new_page(shop: Shop) -> None:
    """The cached page is forgotten after the response of `PUT /products/{id}`."""
    first, second = (shop.client.get("/products/3") for _ in range(2))
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("miss", "hit")
    changed = {"name": "Chair & table", "price": 12050}
    assert shop.client.put("/products/3", json=changed).json() == changed
    entry = shop.timeline("PUT /products/3")
    assert of(entry, "forget page")["started"] >= entry["response_out"]
    page = shop.client.get("/products/3")
    assert page.headers["X-Cache"] == "miss"
    assert page.text == "<h1>Chair &amp; table</h1><p>120.50</p>"


def test_a_browser_gets_the_timeline_as_a_picture(shop: Shop) -> None:
    """The SVG names the three phases and has a lane for each task; a page shows the same."""
    shop.post("/orders", {"product_id": 1, "quantity": 1})
    shop.timeline("POST /orders")
    svg = shop.client.get("/timeline.svg")
    assert svg.headers["Content-Type"].startswith("image/svg+xml")
    texts = [node.text for node in ElementTree.fromstring(svg.text).iter() if node.text]
    assert texts[:4] == ["POST /orders → 201", "endpoint", "response", "after response"]
    assert {"analytics", "audit", "charge"} <= set(texts[:20])
    page = shop.client.get("/timeline", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert svg.text in page.text


def test_the_first_page_lists_what_there_is(shop: Shop) -> None:
    """Every address on the first page is one of an endpoint."""
    home = shop.client.get("/").text
    paths = set(re.findall(rf"{re.escape(str(shop.client.base_url))}/?([^\s'?]*)", home))
    endpoints = shop.client.get("/openapi.json").json()["paths"]
    patterns = [re.sub(r"\{\w+\}", r"\\w+", path) for path in endpoints]
    assert len(paths) >= 10
    for path in paths - {"docs"}:
        assert any(re.fullmatch(pattern, f"/{path}") for pattern in patterns), path


HUGE = 10**30


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "detail"),
    [
        ("POST", "/users", {"name": " ", "email": "a@example.org"}, 422, "at least 1 character"),
        ("POST", "/users", {"name": "A\nB", "email": "a@example.org"}, 422, "name"),
        ("POST", "/users", {"name": "Ada", "email": "nobody"}, 422, "email"),
        ("POST", "/users", {"name": "Ada", "email": "a@b.org\nBcc: c@d.org"}, 422, "email"),
        ("POST", "/orders", {"product_id": 1, "quantity": 0}, 422, "quantity"),
        ("POST", "/orders", {"product_id": HUGE, "quantity": 1}, 422, "product_id"),
        ("GET", "/orders/999", None, 404, "no order 999"),
        ("GET", "/products/999", None, 404, "no product 999"),
        ("GET", f"/products/{HUGE}", None, 422, "product_id"),
        ("PUT", "/products/999", {"name": "Desk", "price": 1}, 404, "no product 999"),
        ("PUT", "/products/1", {"name": "", "price": 1}, 422, "at least 1 character"),
        ("PUT", "/products/1", {"name": "Desk", "price": -1}, 422, "price"),
        ("GET", "/images/999/small", None, 404, "no image 999"),
        ("GET", "/images/1/huge", None, 422, "'small', 'medium' or 'large'"),
        ("GET", "/search?q=%20", None, 422, "at least 1 character"),
        ("GET", "/search?q=%00", None, 422, "pattern"),
        ("POST", "/upload", None, 422, "image"),
    ],
)
def test_wrong_input_gets_a_clear_answer(
    shop: Shop, method: str, path: str, body: Any, status: int, detail: str
) -> None:
    """What cannot be done is refused with the status that fits, and says what is wrong."""
    response = shop.client.request(method, path, json=body)
    assert response.status_code == status
    assert detail in str(response.json()["detail"])


def test_a_second_user_with_the_same_address_is_refused(shop: Shop) -> None:
    """The conflict is answered as such, and nobody gets a mail."""
    shop.post("/users", {"name": "Bob", "email": "bob@example.org"})
    response = shop.client.post("/users", json={"name": "Rob", "email": "bob@example.org"})
    assert (response.status_code, "bob@example.org" in response.text) == (409, True)
    shop.timeline("POST /users")
    mails = shop.client.get("/mailbox").json()
    assert [mail["to"] for mail in mails].count("bob@example.org") == 1


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"no image", 415), (picture("png")[:-400], 415), (b"", 415), (bytes(10_000_001), 413)],
    ids=["text", "cut off", "empty", "too large"],
)
def test_an_upload_that_is_no_image_is_refused(shop: Shop, data: bytes, status: int) -> None:
    """The answer says what an upload has to be; nothing is stored."""
    files = {"image": ("x.png", data)}
    response = shop.client.post("/upload", data={"title": "odd"}, files=files)
    assert response.status_code == status
    assert "image" in response.json()["detail"]
    assert shop.client.get("/search", params={"q": "odd"}).json() == []


def test_sigterm_ends_the_shop_when_the_charge_has_ended(tmp_path: Path) -> None:
    """A charge in flight is shielded: it outlives the grace period, and finds its database."""
    with run_shop(tmp_path, SHOP_CHARGE_SECONDS="2", SHOP_GRACE_PERIOD="0") as shop:
        order = shop.post("/orders", {"product_id": 1, "quantity": 1})
        log = shop.stop()
    with closing(sqlite3.connect(shop.data / "shop.sqlite")) as db:
        rows = db.execute("SELECT id, status FROM orders").fetchall()
    assert rows == [(order["id"], "charged")]
    assert re.search(r"drain of scope 'Shop' ended .* [1-9] succeeded, 0 failed", log)
    assert "Traceback" not in log


def test_data_is_temporary_unless_a_folder_is_given(tmp_path: Path) -> None:
    """Without `SHOP_DATA` the shop takes a new folder, and removes it at the end."""
    with run_shop(tmp_path, SHOP_DATA="", TMPDIR=str(tmp_path)) as shop:
        shop.post("/users", {"name": "Ada", "email": "ada@example.org"})
        assert len(list(tmp_path.glob("shop-*/shop.sqlite"))) == 1
        shop.stop()
    assert list(tmp_path.glob("shop-*")) == []


def test_mails_go_to_the_server_at_smtp_url(tmp_path: Path) -> None:
    """With `SMTP_URL` the mails go there, and `GET /mailbox` says so."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    server = Controller(Mailbox(tmp_path / "elsewhere"), "127.0.0.1", port)
    server.start()
    try:
        with run_shop(tmp_path, SMTP_URL=f"smtp://127.0.0.1:{port}") as shop:
            shop.post("/users", {"name": "Eve", "email": "eve@example.org"})
            assert of(shop.timeline("POST /users"), "welcome mail")["state"] == "succeeded"
            response = shop.client.get("/mailbox")
            assert (response.status_code, "SMTP_URL" in response.text) == (404, True)
    finally:
        server.stop()
    (mail,) = (tmp_path / "elsewhere" / "new").iterdir()
    assert "To: eve@example.org" in mail.read_text()
