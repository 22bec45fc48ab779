"""Orders over TCP, one in a line, without any framework.

In docs/examples:

    python -m frameworks.tcp_server 4000
    echo 7 | nc -q 1 127.0.0.1 4000
"""

import asyncio
import signal
import sys
from asyncio import StreamReader, StreamWriter

from frameworks.orders import GRACE_PERIOD, Orders, open_orders
from taskcore import TaskScope
from taskcore.errors import TaskcoreError


async def serve(
    reader: StreamReader, writer: StreamWriter, scope: TaskScope, orders: Orders
) -> None:
    """Serve one connection: each line is an order, and a unit of work with two phases."""
    try:
        async for line in reader:
            order = line.decode().strip()
            async with scope.lifecycle("accepted", "answered") as unit:
                unit.schedule(orders.track, order)
                unit.phase("accepted").task(shield=True).schedule(orders.charge, order)
                unit.phase("answered").schedule(orders.mail, order)
                unit.phase("answered").task(when="failure").schedule(orders.alert, order)
                if not orders.accepts(order):
                    unit.fail()
                if unit.advance("accepted"):
                    await asyncio.sleep(0)  # one turn, in which its tasks start
                writer.write(b"refused\n" if unit.failed else b"accepted\n")
                await writer.drain()
    except ConnectionError:
        pass  # the client is gone
    finally:
        writer.close()


async def main(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C: then connections end first, their tasks after them."""
    stop = asyncio.Event()
    for number in signal.SIGTERM, signal.SIGINT:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with open_orders() as orders:
        async with (
            TaskScope(name="orders", grace_period=GRACE_PERIOD) as tasks,
            TaskScope(name="connections", grace_period=1.0, limit=1000, backlog=0) as connections,
        ):

            def connected(reader: StreamReader, writer: StreamWriter) -> None:
                try:
                    connections.schedule(serve, reader, writer, tasks, orders)
                except TaskcoreError:  # there are too many, or the server is about to stop
                    writer.close()

            server = await asyncio.start_server(connected, "127.0.0.1", port)
            await stop.wait()
            server.close()
            await connections.drain()
            await tasks.drain()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
