"""gpenlog(1) and gpenlogd(1), made from the usage texts, so that their options can't drift from the programs.

    python -m gpen.netlog.manual gpenlog > man/gpenlog.1
    python -m gpen.netlog.manual gpenlogd > man/gpenlogd.1
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

from gpen import __version__
from gpen.docs import roff
from gpen.netlog import collector, sender

DATE = "November 2026"
_HEADING = re.compile(r"^(Usage|Options|Examples|Exit status):\s*", re.MULTILINE)
_OPTION = re.compile(r"^  (-.*?)   *(\S.*(?:\n {3,}\S.*)*)", re.MULTILINE)


def gpenlog_page() -> str:
    """gpenlog(1)."""
    return _page("gpenlog", "send the log of a web server to gpenlogd", sender.USAGE_TEXT, [
        ("LINES AND DATAGRAMS", _GPENLOG_LINES), ("THE FORMAT OF THE LOG", _GPENLOG_FORMAT)])


def gpenlogd_page() -> str:
    """gpenlogd(1)."""
    return _page("gpenlogd", "one log for all web servers behind gpen or pen", collector.USAGE_TEXT, [
        ("WHOSE LINE IT IS", _MATCHING), ("WHAT IS WRITTEN", _WRITTEN), ("SIGNALS", _SIGNALS),
        ("ROTATION", _ROTATION), ("SECURITY", _SECURITY), ("A WHOLE SETUP", _SETUP)])


def _page(name: str, purpose: str, usage: str, sections: Iterable[tuple[str, str]]) -> str:
    about, *parts = _HEADING.split(usage)
    part = dict(zip(parts[::2], parts[1::2], strict=True))
    synopsis, _, description = part["Usage"].partition("\n\n")
    lines = [r".\" made by gpen.netlog.manual from the usage texts: change them there",
             f'.TH {name.upper()} 1 "{DATE}" "gpen {__version__}" "User Commands"',
             ".SH NAME", rf"{name} \- {purpose}", ".SH SYNOPSIS",
             "\n.br\n".join(roff.escape(line.strip()) for line in synopsis.splitlines()),
             ".SH DESCRIPTION", *roff.paragraphs(f"{about}\n\n{description}"),
             ".SH OPTIONS", *_options(part["Options"])]
    for heading, text in sections:
        lines += [f'.SH "{heading}"', *roff.paragraphs(text)]
    lines += [".SH EXAMPLES", *roff.as_it_is(map(str.strip, part["Examples"].strip().splitlines())),
              '.SH "EXIT STATUS"', *roff.paragraphs(part["Exit status"])]
    others = [other for other in ("gpen", "gpenlog", "gpenlogd", "pen", "penlog", "penlogd") if other != name]
    return "\n".join([*lines, '.SH "SEE ALSO"', ", ".join(rf"\fB{other}\fR(1)" for other in others)]) + "\n"


def _options(text: str) -> Iterator[str]:
    for option, explanation in _OPTION.findall("  " + text):
        yield from roff.term(option, " ".join(explanation.split()))


_GPENLOG_LINES = """
Each line is sent at once, as it is, in a datagram of UDP; one of more than 1023 bytes in several, as penlog does it.
gpenlogd puts them together again.

Nothing is waited for, so gpenlog never holds up the web server: while the way to the collector is down, or nobody
listens there, lines are lost, and gpenlog goes on. What this machine itself can't send is told on standard error, once
when it begins and once when it is over.

A name of SERVER is looked up once, at the start; where it has an IPv4 and an IPv6 address, IPv4 is taken.
"""

_GPENLOG_FORMAT = """
The format of the log is up to the web server, but gpenlogd looks for two things: the client's address is the first word
of the line, and the first line of the request is the first thing in quotes. The formats common and combined of Apache
and combined of nginx are so.
"""

_MATCHING = """
The balancer's note holds the client's address, that of the server, and the first line of the request. A line of a web
server is about such a request when it comes from the address of that server and the first thing that it has in quotes
is the same text (its first 900 bytes, as pen cuts longer ones). Quotes and control characters, which web servers write
as \\" and \\x1b, are understood.

Of several equal requests to a server a line gets the newest one that has no line yet; when all have one, the last of
them gets this one too. The last N requests (-n) are held; on a busy balancer, N is best some times the requests that
are under way, since a line is written when its request has been answered.
"""

_WRITTEN = """
The first word of the line, up to a blank or a tab, is replaced by the client's address. The rest stays byte for byte.
A line whose request is not known is written unchanged. Every line is written at once, by one system call.

A character that can't be printed, other than the tab, is written as the bytes that it has in UTF-8, each \\x and two
hexadecimal digits, also an end of a line within a datagram: so a datagram never makes more than one line. Web servers
do the same in their logs, so this changes only what somebody else has sent. What is neither a balancer's note nor has
something in quotes is ignored, as penlogd does; -d tells each, and at the end it is said how many there were.
"""

_SIGNALS = """
HUP: open the file of -l again; when that fails, the old one stays in use, and that is told.

TERM, INT: write what has come, remove the pid file and exit. A second one: exit at once.
"""

_ROTATION = """
No line is lost, nor written twice:

    mv /var/log/access.log /var/log/access.log.1
    kill -HUP $(cat /run/gpenlogd.pid)

With -u it is USER who opens FILE again, so the directory must be his; with -j FILE must lie below DIR, and is named as
it is seen from outside. In a directory of USER's, or one that others may write, gpenlogd follows no symbolic link and
takes no file with a second name; a FILE that was there before stays whose it is. logrotate has to rotate there as USER
(su). Once it serves gpenlogd can gain no rights (no_new_privs), and has none of root's capabilities that it does not
need.
"""

_SECURITY = """
UDP has no login: whoever can send to PORT can write lines into the log, and say whose requests they are. Listen on an
address of an inner network, and let a firewall admit the balancer and the web servers alone.
"""

_SETUP = """
On the balancer, 192.0.2.1:

    gpenlogd -l /var/log/access.log -p /run/gpenlogd.pid 192.0.2.1:10000
    gpen -l 192.0.2.1:10000 80 192.0.2.11 192.0.2.12

On the web server 192.0.2.11, in Apache's configuration:

    CustomLog "|/usr/local/bin/gpenlog 192.0.2.1 10000 192.0.2.11" combined

pen, penlog and penlogd may take the place of gpen, gpenlog and gpenlogd, each of them.
"""


if __name__ == "__main__":
    sys.stdout.write({"gpenlog": gpenlog_page, "gpenlogd": gpenlogd_page}[sys.argv[1]]())
