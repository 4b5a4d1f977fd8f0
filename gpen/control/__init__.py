"""The control language: the command table, lines to calls and back, replies. Pure: no socket, no gevent."""
