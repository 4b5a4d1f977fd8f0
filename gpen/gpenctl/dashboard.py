"""How `gpenctl TARGET top` looks: what the board knows, as one picture that fits the terminal. By rich."""

from __future__ import annotations

import io
import time

from rich.cells import cell_len
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gpen.gpenctl import tables
from gpen.gpenctl.board import (
    BAR,
    GRAPH,
    GRAPHS,
    HELP,
    HINTS,
    KEPT,
    SESSION_HINTS,
    STRETCH,
    Board,
    Shown,
    called,
    in_words,
    number_of,
    sessions_of,
    share,
)
from gpen.gpenctl.sheet import BETWEEN, Field, Fitted, Sheet, fit
from gpen.gpenctl.signs import Signs
from gpen.gpenctl.tables import HEALTH_COLORS, Record, is_number, plain, rate, size_rate, span
from gpen.model.text import printable

COLORS = {"31": "red", "32": "green", "33": "yellow"}
HEALTH = {word: COLORS[code] for word, code in HEALTH_COLORS.items()} | {"recovered": "green", "added": "green"}
FULL, NEARLY = 0.9, 0.7  # parts of a limit from which a bar has another color
READY = 10  # how soon the column state gives way where all are ready
HIGH = 20  # lines in which there is room for a graph of all servers together


class Dashboard:
    """Draws a board."""

    def __init__(self, has_colors: bool, signs: Signs) -> None:
        self._has_colors = has_colors
        self._signs = signs

    def lines(self, board: Board, shown: Shown, width: int, height: int) -> list[str]:
        """The picture, as lines for a terminal of this size."""
        console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=width, height=height,
                          no_color=not self._has_colors, highlight=False, markup=False, emoji=False)
        with console.capture() as capture:
            console.print(self.picture(board, shown, width, height), no_wrap=True, overflow="ellipsis", crop=True)
        return capture.get().replace("…", self._signs.cut).split("\n")[:height]

    def picture(self, board: Board, shown: Shown, width: int, height: int) -> Group:
        """The same for rich. Notes in ``shown`` which columns there are."""
        head = [self._title(board, shown, width), self._figures(board, width)]
        if height >= HIGH:
            head.append(self._total(board, width))
        if board.errors:
            head.append(Text(f"errors  {printable(board.errors)}", "yellow"))
        if board.problem:
            head.append(Text(f"no news for {span(time.monotonic() - board.problem_since)}: {printable(board.problem)}",
                             "bold red"))
        foot = [self._foot(shown, width)]
        pages = {"servers": self._servers, "sessions": self._sessions, "help": self._help}
        body = pages[shown.page](board, shown, width, height - len(head) - len(foot) - 1)
        body = [cropped(line, width) for line in body]
        room = height - len(head) - len(foot) - sum(map(_height, body)) - 1
        return Group(*(cropped(line, width) for line in head), Text(), *body, *[Text()] * max(0, room),
                     *(cropped(line, width) for line in foot))

    # --- head and foot --------------------------------------------------------------------------------------------

    def _title(self, board: Board, shown: Shown, width: int) -> Text:
        info, workers = board.info, board.info.get("workers")
        name = " ".join(filter(None, ("gpen", plain(info.get("version")))))
        facts = [plain(info.get("flavour")), f"pid {plain(info.get('pid'))}" if info else "",
                 f"{len(workers)} workers" if isinstance(workers, list) and workers else "",
                 f"up {span(info.get('uptime'))}" if info else "", shown.target]
        title = Text(printable(name), "bold").append(
            "".join(f" {self._signs.dot} {printable(fact)}" for fact in facts if fact), "not bold")
        state = Text("PAUSED", "bold yellow") if shown.is_paused else Text(f"every {shown.interval:g} s", "dim")
        state.append(f"  {time.strftime('%H:%M:%S')}", "not bold")
        title.truncate(max(0, width - state.cell_len - 2), overflow="ellipsis")
        return title.append(" " * max(1, width - title.cell_len - state.cell_len)).append_text(state)

    def _figures(self, board: Board, width: int) -> Text:
        """Sessions of how many, and what comes."""
        now, total = board.sessions_now, board.total
        well, there = board.up
        figures = [
            Text.assemble("new ", (f"{rate(total.get('session_rate')) or '-'}/s", "bold")),
            Text.assemble("in ", (f"{size_rate(total.get('sent_rate')) or '-'}/s", "bold")),
            Text.assemble("out ", (f"{size_rate(total.get('received_rate')) or '-'}/s", "bold")),
            Text.assemble("waiting ", (str(board.waiting), "bold yellow" if board.waiting else "bold")),
        ]
        if there:
            figures.append(Text.assemble("up ", (f"{well} of {there}", "bold" if well == there else "bold red")))
        if board.info.get("clients"):
            figures.append(Text.assemble("clients ", (safe(board.info["clients"]), "bold")))
        part = share(now)
        of = f" of {safe(now.get('max'))}" if now.get("max") else ""
        sessions = Text.assemble("sessions ", (safe(now.get("sessions")), "bold"), of)
        while len(figures) > 1 and sessions.cell_len + sum(text.cell_len + 2 for text in figures) > width:
            figures.pop()  # the last ones are the least needed
        room = width - sessions.cell_len - sum(text.cell_len + 2 for text in figures) - 1
        if part is not None and room >= 5:
            sessions.append(" ").append_text(self._bar(part, min(room, 40)))
        return Text("  ").join([sessions, *figures])

    def _total(self, board: Board, width: int) -> Text:
        """The graph of all servers together, with a scale of its own."""
        figures = board.history(board.total, min(KEPT, width - 40))
        highest, name = max(figures, default=0.0), GRAPHS[board.graph]
        told = size_rate(highest) if board.graph == "byte_rate" else f"{highest:.1f}"
        return Text.assemble((f"{name} ", "dim"), (self._signs.graph(figures, highest), "cyan"),
                             (f"  highest {told} in {span(len(figures) * STRETCH)}", "dim"))

    def _foot(self, shown: Shown, width: int) -> Text:
        if shown.question:
            return Text(f" {printable(shown.question)} y/N ", "bold reverse")
        if shown.message:
            return Text(printable(shown.message), "bold red" if shown.is_error else "bold green")
        hints = SESSION_HINTS if shown.page == "sessions" else HINTS
        line = Text()
        for key, what in hints:
            if line.cell_len + len(f"{key} {what}") <= width:  # the last ones are the least needed
                line.append(key, "bold").append(f" {what}  ", "dim")
        return line

    # --- pages ----------------------------------------------------------------------------------------------------

    def _help(self, board: Board, shown: Shown, width: int, height: int) -> list[Text | Table]:
        return [Text.assemble((f"{key:>9}", "bold"), f"  {what}") for key, what in HELP]

    def _servers(self, board: Board, shown: Shown, width: int, height: int) -> list[Text | Table]:
        body: list[Text | Table] = []
        if any(listener.get("name") for listener in board.listeners):
            body += [self._listeners(board, width, max(1, height // 5)), Text()]
        used = sum(map(_height, body))
        servers = board.servers.rows
        events = min(len(board.events), max(3, height - used - len(servers) - 4))
        rows = max(1, height - used - events - 4)  # two headings, a line of details, and a gap
        body.append(self._sheet(board, board.servers, shown, width, rows))
        selected = board.servers.selected
        names = {number_of(server): called(server) for server in servers}
        none = "there are no servers" if board.is_known else "asking ..."
        return [*body, Text(printable(in_words(selected)) if selected else none, "dim"),
                Text(f"({rows} of {len(servers)} servers are shown)" if len(servers) > rows else "", "dim"),
                Text("events, the last one first", "bold"),
                *(self._event(event, names) for event in board.events[:events])]

    def _sessions(self, board: Board, shown: Shown, width: int, height: int) -> list[Text | Table]:
        server = board.servers.selected
        title = Text(f"sessions of {printable(called(server))}: {len(board.sessions.rows)}" if server else "no server",
                     "bold")
        return [title, self._sheet(board, board.sessions, shown, width, max(1, height - 2))]

    def _event(self, event: Record, names: dict[str, str]) -> Text:
        word, server = plain(event.get("event")), event.get("server")
        subject = names.get(plain(server), f"server {plain(server)}") if server is not None else ""
        listener = f"listener {plain(event['listener'])}" if event.get("listener") else ""
        what = " ".join(filter(None, (subject, listener))) or "gpen"
        return Text.assemble((f"{printable(moment(event.get('time')))}  ", "dim"), f"{printable(what)}: ",
                             (printable(word), HEALTH.get(word, "cyan")), f"  {safe(event.get('cause'))}")

    # --- tables ---------------------------------------------------------------------------------------------------

    def _listeners(self, board: Board, width: int, height: int) -> Table:
        columns, rows = tables.COLUMNS["listeners"], board.listeners[:height]
        cells = [[printable(column.cell(row)) for column in columns] for row in rows]
        kept = tables.fit(columns, cells, width - BETWEEN)
        table = grid()
        for i in kept:
            table.add_column(Text(columns[i].heading, "dim"), justify="right" if columns[i].right else "left",
                             no_wrap=True)
        for row in cells:
            table.add_row(*(Text(row[i]) for i in kept))
        return table

    def _sheet(self, board: Board, sheet: Sheet, shown: Shown, width: int, height: int) -> Table:
        """A sheet's rows that fit. Notes which columns there are."""
        rows = sheet.window(height)
        fields = [self._fitting(field, sheet) for field in sheet.fields.values()]
        cells = [[self._width(field, row) for field in fields] for row in rows]
        fitted = fit(fields, cells, width - BETWEEN - 1)
        counts = max((cell_len(sessions_of(row)) for row in rows), default=0)
        shown.columns = [column.field.key for column in fitted if column.field.key != "graph"]
        table = grid()
        table.add_column("", width=1)
        for column in fitted:
            table.add_column(self._heading(column, sheet, board), width=column.width, no_wrap=True, overflow="ellipsis",
                             justify="right" if column.field.is_figure or column.field.is_right else "left")
        graphs = next((column.width for column in fitted if column.field.key == "graph"), 0)
        highest = board.highest(graphs)
        for row in rows:
            is_selected = sheet.is_selected(row)
            mark = Text(self._signs.selected if is_selected else " ", "bold cyan")
            table.add_row(mark, *(self._count(row, counts, column.width) if column.field.key == "sessions" else
                                  self._cell(column, row, board, highest) for column in fitted),
                          style="bold" if is_selected else "")
        return table

    def _heading(self, column: Fitted, sheet: Sheet, board: Board) -> Text:
        heading = column.field.heading.rstrip()
        if column.field.key == "graph":
            heading = f"{GRAPHS[board.graph]} in the last {span(column.width * STRETCH)}"
            heading = heading if len(heading) <= column.width else GRAPHS[board.graph]
        if column.field.key != sheet.order:
            return Text(heading, "dim")
        return Text(f"{heading}{self._signs.descending if sheet.is_descending else self._signs.ascending}", "bold cyan")

    def _width(self, field: Field, row: Record) -> int:
        """How wide a cell has to be."""
        if field.key == "graph":
            return GRAPH
        bar = BAR + 1 if field.key == "sessions" and share(row) is not None else 0
        return cell_len(printable(field.text(row))) + bar

    def _fitting(self, field: Field, sheet: Sheet) -> Field:
        """The field, as important as it is now, with room for the sign of the order."""
        if field.key == "state" and all(row.get("state") == "ready" for row in sheet.rows):
            field = field._replace(drop=READY)
        return field._replace(heading=f"{field.heading} ") if field.key == sheet.order else field

    def _cell(self, column: Fitted, row: Record, board: Board, highest: float) -> Text:
        key, text = column.field.key, printable(column.field.text(row))
        if key == "graph":
            figures = board.history(row, column.width)
            return Text(self._signs.graph(figures, highest).rjust(column.width), "cyan")
        if key in ("health", "state"):
            return Text(text, HEALTH.get(text, "dim" if text == "ready" else ""))
        if key == "failures" and text == "0":
            return Text(text, "dim")
        return Text(text)

    def _count(self, row: Record, counts: int, width: int) -> Text:
        """The sessions of a server, and a bar where it has a limit; `counts` is how wide the longest text is."""
        part, text = share(row), Text(f"{printable(sessions_of(row)):>{counts}}")
        room = width - counts - 1
        if room < BAR:
            return text
        return text.append(" ").append_text(self._bar(part, room) if part is not None else Text(" " * room))

    def _bar(self, part: float, width: int) -> Text:
        full, empty = self._signs.bar(part, width)
        color = "red" if part >= FULL else "yellow" if part >= NEARLY else "green"
        return Text.assemble((full, color), (empty, "dim"))


def safe(value: object) -> str:
    """A value as text in which nothing acts on a terminal."""
    return printable(plain(value))


def grid() -> Table:
    """A table without lines, two blanks between its columns."""
    return Table(box=None, show_edge=False, pad_edge=False, padding=(0, BETWEEN, 0, 0), collapse_padding=True)


def cropped(part: Text | Table, width: int) -> Text | Table:
    """A line that is too long is cut off."""
    if isinstance(part, Text):
        part.truncate(width, overflow="ellipsis")
        part.no_wrap = True
    return part


def _height(part: Text | Table) -> int:
    return 1 + part.row_count if isinstance(part, Table) else 1


def moment(value: object) -> str:
    """A unix time as local time; with the date, where it is of another day."""
    if not is_number(value):
        return plain(value)
    text = tables.moment(value)
    return text.partition(" ")[2] if text.startswith(time.strftime("%Y-%m-%d ")) else text
