"""A TCP path that can go silent: no byte passes any more, and nobody is told."""

import selectors
import socket
import threading


class VanishingPath:
    """Forwards connections to ``port`` of this machine, until ``vanish``.

    The connections there are at that moment carry nothing from then on, neither data nor
    their end, as when a machine loses its power. Later ones are forwarded as before.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: dict[socket.socket, socket.socket] = {}
        self._silent: list[socket.socket] = []
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def vanish(self) -> int:
        """Go silent; returns how many connections that concerns."""
        with self._lock:
            concerned = list(self._ends)
            for end in concerned:
                self._selector.unregister(end)
            self._silent += concerned
            self._ends.clear()
        return len(concerned) // 2

    def _run(self) -> None:
        while not self._ending.is_set():
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._ends:
                        self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._to))
        for one, other in ((client, server), (server, client)):
            self._ends[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        other = self._ends[end]
        try:
            data = end.recv(65536)
            if data:
                other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for each in (end, other):
                self._selector.unregister(each)
                del self._ends[each]
                each.close()

    def __enter__(self) -> "VanishingPath":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ending.set()
        self._thread.join()
        for end in [*self._ends, *self._silent, self._listener]:
            end.close()
        self._selector.close()
