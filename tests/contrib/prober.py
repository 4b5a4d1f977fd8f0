"""A client that makes a hundred new connections a second, and waits for each: HOST PORT SECONDS. When its input ends it
makes no more, waits for those that are under way, and prints what became of them as JSON: when each began (monotonic
seconds), how long it took, and what it was answered, or the error."""

from __future__ import annotations

import errno
import json
import selectors
import socket
import sys
import time

INTERVAL = 0.01


class Attempt:
    """One connection, from its SYN to the answer."""

    def __init__(self, host: str, port: int) -> None:
        self.began = time.monotonic()
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.setblocking(False)
        self.is_connected = False
        self.outcome = ""
        self.seconds = 0.0
        problem = self.socket.connect_ex((host, port))
        if problem not in (0, errno.EINPROGRESS):
            self.end(errno.errorcode[problem])

    def end(self, outcome: str) -> None:
        self.outcome, self.seconds = outcome, time.monotonic() - self.began
        self.socket.close()

    def goes_on(self) -> bool:
        """Something has happened to its socket; whether it is not the end."""
        try:
            if not self.is_connected:
                problem = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if problem:
                    raise OSError(problem, "")
                self.is_connected = True
                return True
            self.end(self.socket.recv(100).decode() or "END")
        except BlockingIOError:
            return True
        except OSError as error:
            self.end(errno.errorcode[error.errno or 0])
        return False


def main() -> None:
    host, port, patience = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    attempts: list[Attempt] = []
    following, after, is_over = time.monotonic(), 0.0, False
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while not is_over or (len(selector.get_map()) > 0 and time.monotonic() < after):
            while not is_over and time.monotonic() >= following:
                following += INTERVAL
                attempts.append(attempt := Attempt(host, port))
                if not attempt.outcome:
                    selector.register(attempt.socket, selectors.EVENT_WRITE, attempt)
            for key, _ in selector.select(max(following - time.monotonic(), 0) if not is_over else 0.1):
                if key.data is None:
                    selector.unregister(sys.stdin)
                    is_over, after = True, time.monotonic() + patience
                    continue
                selector.unregister(key.fileobj)
                if key.data.goes_on():
                    selector.register(key.fileobj, selectors.EVENT_READ, key.data)
    for attempt in attempts:
        if not attempt.outcome:
            attempt.end("TIMEOUT")
    json.dump([(attempt.began, attempt.seconds, attempt.outcome) for attempt in attempts], sys.stdout)


if __name__ == "__main__":
    main()
