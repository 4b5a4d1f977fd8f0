"""The table of sources: each is a command of gpen-discover, with an argument, options of its own, and who makes it.

What a source needs is loaded when it is asked for, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpen.discover.source import Source

Arguments = Mapping[str, Any]  # as docopt has read them: by --option, and by the source's own argument


@dataclass(frozen=True)
class SourceKind:
    """What there is to know of a source: ``argument`` is what it takes, as its usage calls it; ``help`` stands in the
    overview, ``about`` in front of its usage and ``options`` in it, wrapped as docopt and people read them (80
    columns, help from column 26 on, each line with its end); ``example`` is a command line without the gpen.
    ``make`` makes it, and raises UsageError for arguments that make no sense, and PackageError for a package that is
    missing (start.check_optional)."""

    argument: str
    help: str
    about: str
    options: str
    example: str
    make: Callable[[Arguments], Source]


def _file(arguments: Arguments) -> Source:
    from gpen.discover.file import made

    return made(arguments)


def _dns(arguments: Arguments) -> Source:
    from gpen.discover.dns import made

    return made(arguments)


def _etcd(arguments: Arguments) -> Source:
    from gpen.discover.etcd import made

    return made(arguments)


def _consul(arguments: Arguments) -> Source:
    from gpen.discover.consul import made

    return made(arguments)


def _kubernetes(arguments: Arguments) -> Source:
    from gpen.discover.kubernetes import made

    return made(arguments)


FILE_ABOUT = """\
Keep the servers of gpens as a file lists them. It is read whenever it changes,
be it written anew, replaced by another of its name, or behind a symbolic link.
"""
FILE_OPTIONS = """\
  --format=FORM          What is in it: lines, json or yaml; auto goes by what
                         the file begins with and by its name [default: auto].
"""
DNS_ABOUT = """\
Keep the servers of gpens as DNS has them: at the addresses of a name, or at the
hosts of its SRV records, with their ports, priorities and weights. It is asked
again when an answer expires.
"""
DNS_OPTIONS = """\
  --port=PORT            The port of the servers: needed unless SRV records are
                         asked for, which have ports of their own.
  --srv                  Ask for SRV records. A NAME that begins with _ has that
                         done without being told.
  --ipv4                 Only IPv4 addresses.
  --ipv6                 Only IPv6 addresses.
  --nameserver=HOSTS     HOST[:PORT],HOST[:PORT]... with numeric HOSTs: ask
                         these instead of those of /etc/resolv.conf.
  --ttl-min=SEC          Don't ask again sooner, however soon what was answered
                         expires [default: 1].
  --ttl-max=SEC          Ask again after so long at the latest [default: 60].
"""

TLS_OPTIONS = """\
  --ca=FILE              The authorities that vouch for an https:// server, in
                         PEM. The system's, unless given.
  --cert=FILE            The certificate to show there, in PEM.
  --key=FILE             Its key, if that is not in the same file.
"""
ETCD_ABOUT = """\
Keep the servers of gpens as etcd (3.4 or newer) has them: each key that begins
with PREFIX is a server for as long as it is there. A value is HOST:PORT,
perhaps with weight, prio and max as in the line of a file, or an object of JSON
with these. One that is not understood costs itself alone.
"""
ETCD_OPTIONS = f"""\
  --etcd=URLS            http://HOST:PORT,https://HOST:PORT... of its members:
                         one that fails gives way to the next
                         [default: http://127.0.0.1:2379].
  --login=FILE           Log in: FILE holds USER:PASSWORD. Without it,
                         GPEN_ETCD_USER and GPEN_ETCD_PASSWORD count.
{TLS_OPTIONS}"""
CONSUL_ABOUT = """\
Keep the servers of gpens as Consul has them: the instances of a service whose
checks all pass, with their weights.
"""
CONSUL_OPTIONS = f"""\
  --consul=URLS          http://HOST:PORT,https://HOST:PORT... of agents: one
                         that fails gives way to the next
                         [default: http://127.0.0.1:8500].
  --token=FILE           The token to show is in FILE. Without it,
                         CONSUL_HTTP_TOKEN counts.
  --tag=TAGS             TAG,TAG...: only instances that have all of these.
  --datacenter=NAME      Ask this data centre. The agent's, unless given.
  --namespace=NAME       Ask for a service of this namespace (Enterprise).
{TLS_OPTIONS}"""
KUBERNETES_ABOUT = """\
Keep the servers of gpens as Kubernetes (1.21 or newer) has them: the endpoints
of a service that are ready, by its EndpointSlices. One that is terminating
leaves: it gets no new clients.
"""
KUBERNETES_OPTIONS = f"""\
  --namespace=NAME       The namespace of the service. The pod's own, unless
                         given; default with --kubernetes.
  --port-name=NAME       The name of the port, where the service has several.
  --address-type=KIND    IPv4, IPv6 or FQDN: only such addresses. The first of
                         them that the service has, unless given.
  --service-account=DIR  What a pod knows itself by: token, ca.crt and namespace.
                         Unless given, they are in
                         /var/run/secrets/kubernetes.io/serviceaccount.
  --kubernetes=URL       Outside a pod: https://HOST:PORT of its interface.
  --token=FILE           The token to show is in FILE. The pod's, unless given.
{TLS_OPTIONS}"""

SOURCES: dict[str, SourceKind] = {
    "file": SourceKind("PATH", "a file, as JSON, YAML or lines", FILE_ABOUT, FILE_OPTIONS,
                       "file /etc/gpen/servers", _file),
    "dns": SourceKind("NAME", "a name: its addresses, or its SRV records", DNS_ABOUT, DNS_OPTIONS,
                      "dns _web._tcp.example.com", _dns),
    "etcd": SourceKind("PREFIX", "etcd: the keys that begin so", ETCD_ABOUT, ETCD_OPTIONS,
                       "etcd /gpen/web/", _etcd),
    "consul": SourceKind("SERVICE", "Consul: a service", CONSUL_ABOUT, CONSUL_OPTIONS, "consul web", _consul),
    "kubernetes": SourceKind("SERVICE", "Kubernetes: a service", KUBERNETES_ABOUT, KUBERNETES_OPTIONS,
                             "kubernetes web --port-name=http", _kubernetes),
}
