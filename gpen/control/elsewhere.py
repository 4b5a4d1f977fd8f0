"""What words of haproxy's and nginx's configurations are called here, for those who come from there."""

from __future__ import annotations

_RULE = "roundrobin, leastconn, random, stateless, hash, weight or prio, a setting by itself"
_SERVER = "'server N address HOST:PORT', for each server"
_LISTENER = "'listener NAME listen [HOST:]PORT'; what is said without 'listener NAME' is shared by all"
_CHECK = "check: 'check connect', or 'check send STRING expect STRING'"
_STATE = "'server N state ready|drain|maint', or drain N SECONDS"
_SAY = "said without that word: 'server N max 50', 'conn_max 1000'"
_MEMORY = "tracking S and clients_max N (clients are remembered unless roundrobin is on), and peers to tell other gpens"
_TLS = "ssl_certificate FILE (-E)"

# what stands behind 'here that is'
ELSEWHERE = {
    "backend": _SERVER,
    "backup": "prio ('server N prio P': the lowest has all as long as it can), or emergency HOST:PORT",
    "balance": _RULE,
    "bind": "listen [HOST:]PORT",
    "default_backend": "'route default servers LIST'",
    "defaults": _LISTENER,
    "disable": _STATE,
    "enable": _STATE,
    "fail_timeout": "blacklist S",
    "frontend": _LISTENER,
    "global": _LISTENER,
    "inter": "check_interval S, of all servers",
    "ip_hash": "hash",
    "location": "'route host NAME servers LIST'; paths are not looked at",
    "max_fails": "check_fall N",
    "maxconn": "conn_max N, of a listener, or 'server N max M'",
    "option": f"a setting by itself: {_CHECK}; http adds X-Forwarded-For",
    "proxy_pass": _SERVER,
    "set": _SAY,
    "show": "said without that word: servers, sessions, info, events",
    "ssl_crt": _TLS,
    "stats": "metrics HOST:PORT: a page, and figures for Prometheus",
    "stick": _MEMORY,
    "stick-table": _MEMORY,
    "stop": "exit, where gpen was started with -X; else signal TERM",
    "upstream": _SERVER,
    "use_backend": "'route sni|alpn|host NAME servers LIST'",
}
