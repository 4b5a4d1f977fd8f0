"""The usage texts that docopt reads, one for each source and command; the man page has the same options."""

from __future__ import annotations

from gpen.discover.sources import SOURCES, SourceKind

CONSOLE = """\
  --socket=PATH          Where status is answered
                         [default: /run/gpen/discover.sock].
"""
HELP = """\
  -h --help              Show this.
"""
COMMON = f"""\
  --gpen=CONTROL         A gpen to tell: the /PATH or HOST:PORT of its option
                         -C. Several: once for each.
  --owner=WORD           The owner of the servers that are made, by which they
                         are known again. Others are never changed. Where
                         several sources tell one gpen, each needs an owner of
                         its own, and a --socket [default: discover].
  --numbers=RANGE        FIRST-LAST: the numbers that new servers get. A listener
                         that shall use these alone is told so: listener NAME
                         servers RANGE [default: 0-99999].
  --floor=N              Keep servers that have left, as long as fewer than N
                         others of this source work: are up and have answered
                         a client or a check, or are up for 10 s [default: 1].
  --drain=SEC            Close the sessions of a server that has left after so
                         long. Unless given, they last as long as they last.
  --allow-empty          Believe a source that says that there are no servers:
                         all leave then, whatever --floor says.
{CONSOLE}{HELP}
SIGTERM, SIGINT and SIGHUP end it; what the gpens know they keep. An answer that
fails, is not whole or not understood, or is empty, changes nothing: that is
told, and asked for again.
Exit status: 0; 2 wrong usage, or something given can't be used.
"""


def source_usage(command: str, kind: SourceKind, common: str) -> str:
    """That of a source, with the options that are ``common`` to all."""
    return f"""\
{kind.about}
Usage:
  gpen-discover {command} [options] [--gpen=CONTROL...] {kind.argument}

Options:
{kind.options}{common}
Example:
  gpen-discover {kind.example} --gpen=/run/gpen/gpen.ctl
"""


STATUS = f"""\
Show what the source has said, and how the gpens are.

Usage:
  gpen-discover status [options]

Options:
{CONSOLE}\
  --json                 Print JSON instead of tables.
{HELP}
Exit status: 0 the source has answered, and each gpen has what it says; 1 not
so; 2 wrong usage; 3 nothing runs there.

Example:
  gpen-discover status --socket=/run/gpen/web.sock
"""

_COMMANDS = "\n".join([*(f"  {name:<12}{kind.help}" for name, kind in SOURCES.items()),
                       "  status      what the source has said, and how the gpens are"])
OVERVIEW = f"""\
Keep the servers of gpens as a source outside says: add, change and drain them.

Usage:
  gpen-discover SOURCE [ARGUMENTS...]
  gpen-discover status [ARGUMENTS...]
  gpen-discover (-h | --help | --version)

Sources and commands:
{_COMMANDS}
`gpen-discover SOURCE --help` shows the options of a source, with an example.

Options:
  -h --help    Show this.
  --version    Show the version.

Examples:
  gpen-discover file /etc/gpen/servers --gpen=/run/gpen/gpen.ctl
  gpen-discover dns _web._tcp.example.com --gpen=/run/gpen/gpen.ctl
  gpen-discover status
"""

USAGES = {**{name: source_usage(name, kind, COMMON) for name, kind in SOURCES.items()}, "status": STATUS}
