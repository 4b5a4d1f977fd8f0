"""Pure protocols: bytes in, bytes and verdicts out; no socket, no clock, no gevent."""
