"""A TCP proxy on loopback that can be cut, refuse, fall silent, or be slow, in both directions or in one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

from harness.postgres.ports import HOST, lease_port

T = TypeVar("T")
Mode = Literal["pass", "cut", "refuse", "half_open", "black_hole", "slow"]
# `forth` is what the client sends (statements), `back` what the server answers.
Direction = Literal["both", "forth", "back"]
_CHUNK_BYTES = 65536
_ANSWER_DEADLINE_S = 10.0


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a dead peer's kernel does, and not with a goodbye."""
    with contextlib.suppress(OSError):
        sock = writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    """Listens on loopback and passes on to one address, until it is told otherwise.

    Modes:
        pass: everything goes through.
        cut: connections are reset on both sides, and so is every new one, once it is accepted.
        refuse: as cut, and nobody listens any more: a new one is refused.
        half_open: the client's side is reset, the server's side stays open and silent; new ones are refused. The server
            does not learn that its client is gone, and keeps the client's locks.
        black_hole: connections stay and new ones are accepted; nothing goes through. What was swallowed by ``pass``
            time is handed on when the mode ends: nothing is lost, as with a network that comes back.
        slow: each piece of data is held for ``latency_s`` seconds.

    Args:
        target: host and port of the server.

    Attributes:
        port: where it listens, the same in every mode.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._lease = lease_port()
        self.port = self._lease.port
        self.mode: Mode = "pass"
        self._latency_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._gates: dict[str, asyncio.Event] = {}
        self._whole = asyncio.Event()
        self._slow: set[str] = set()
        self._listener: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {self.port}", daemon=True)
        self._thread.start()
        try:
            self._call(self._open())
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return HOST, self.port

    def set_mode(self, mode: Mode, *, latency_s: float = 0.0, direction: Direction = "both") -> None:
        """Change what happens to connections; it holds when this returns.

        Args:
            mode: see the class.
            latency_s: for ``slow``: how long each piece of data is held, in seconds.
            direction: for ``black_hole`` and ``slow``: which way is affected.
        """
        self._call(self._set_mode(mode, latency_s, direction))

    def close(self) -> None:
        """End every connection and the listener, and give the port back; may be called twice."""
        if self._thread.is_alive():
            with contextlib.suppress(Exception):
                self._call(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=_ANSWER_DEADLINE_S)
            self._loop.close()
            self._lease.release()

    def _call(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout=_ANSWER_DEADLINE_S)

    async def _open(self) -> None:
        for way in ("forth", "back"):
            self._gates[way] = asyncio.Event()
            self._gates[way].set()
        self._whole.set()
        await self._listen()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, HOST, self.port, reuse_address=True)

    async def _deafen(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _set_mode(self, mode: Mode, latency_s: float, direction: Direction) -> None:
        ways: set[str] = {"forth", "back"} if direction == "both" else {direction}
        if self.mode == "half_open" and mode != "half_open":
            self._end_all()
        self.mode, self._latency_s = mode, latency_s
        self._slow = ways if mode == "slow" else set()
        if mode in {"refuse", "half_open"}:
            await self._deafen()
        if mode in {"cut", "refuse"}:
            self._end_all()
        if mode == "half_open":
            self._whole.clear()
            for near, _far in self._pairs:
                _reset(near)
        else:
            self._whole.set()
        for way, gate in self._gates.items():
            if mode == "black_hole" and way in ways:
                gate.clear()
            else:
                gate.set()
        if mode not in {"refuse", "half_open"}:
            await self._listen()

    def _end_all(self) -> None:
        for near, far in list(self._pairs):
            _reset(near)
            _reset(far)

    async def _shut(self) -> None:
        await self._deafen()
        self._end_all()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        if self.mode == "cut":
            _reset(near_out)
            return
        try:
            await self._gates["forth"].wait()
            far_in, far_out = await asyncio.open_connection(*self._target)
        except (OSError, asyncio.CancelledError):
            _reset(near_out)
            return
        pair = (near_out, far_out)
        self._pairs.add(pair)
        try:
            ways = [
                self._loop.create_task(self._pump("forth", near_in, far_out)),
                self._loop.create_task(self._pump("back", far_in, near_out)),
            ]
            try:
                await asyncio.gather(*ways)
            finally:
                for way in ways:
                    way.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pairs.discard(pair)
            _reset(near_out)
            _reset(far_out)

    async def _pump(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                try:
                    chunk = await reader.read(_CHUNK_BYTES)
                except OSError:
                    chunk = b""
                if way in self._slow:
                    await asyncio.sleep(self._latency_s)
                await self._gates[way].wait()
                if not chunk:
                    break
                writer.write(chunk)
                await writer.drain()
        except OSError:
            if self.mode != "half_open":
                raise
        # The server's side of a half-open connection is not told that its client is gone.
        await self._whole.wait()
        with contextlib.suppress(OSError, RuntimeError):
            if writer.can_write_eof():
                writer.write_eof()
