"""Bytes and sockets, on gevent. Knows the model; knows neither the control language nor the daemon."""
