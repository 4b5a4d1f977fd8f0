"""What gpen shows over HTTP: metrics, the page and JSON. Pure: no socket, no clock, no gevent."""
