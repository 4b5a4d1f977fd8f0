/* gpen's page: asks for the JSON of the control language again and again, and draws what has changed.

   As a snapshot it has its data in itself (the element "data"), and asks nobody. Whatever gpen tells goes into the page
   as text, never as markup; `printed` makes characters visible that the eye would not see, or that turn a line round. */
"use strict";

const MOST_ROWS = 500;
const EVENTS = 50;
const RECENT_SECONDS = 300;
const TREND_SECONDS = 300, LEAST_SECONDS = 30;  // that a line shows: as much as has been seen
const PATIENCE_MS = 15000;  // for an answer
const HEALTH = ["up", "down", "trial", "drain", "empty"];
const STATES = ["ready", "drain", "maint"];
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const SVG = "http://www.w3.org/2000/svg";

const $ = (id) => document.getElementById(id);

// --- figures and words as people read them ---------------------------------------------------------------------------

/** A text in characters that are seen; others as the bytes of UTF-8, as gpen writes them elsewhere: \xe2\x80\xae. */
function printed(value) {
  const odd = /[\p{C}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0]/gu;
  const inBytes = (character) => [...new TextEncoder().encode(character)]
    .map((byte) => "\\x" + byte.toString(16).padStart(2, "0")).join("");
  return String(value).replace(odd, inBytes);
}

function count(number) {
  return number.toLocaleString("en-US");
}

/** Bytes, in the largest binary unit that leaves a digit before the point. */
function size(bytes) {
  let unit = 0;
  for (; Math.abs(bytes) >= 1024 && unit < UNITS.length - 1; unit++) bytes /= 1024;
  return `${bytes.toFixed(unit ? 1 : 0)} ${UNITS[unit]}`;
}

/** So many a second; null is not known yet. */
function rate(number) {
  if (number === null) return "–";
  return number === 0 || number >= 100 ? count(Math.round(number)) : number.toPrecision(2);
}

function speed(bytes) {
  return bytes === null ? "–" : `${size(bytes)}/s`;
}

/** A span of time in words: "12 min", "3 h 5 min", "4 d 2 h". */
function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const minutes = Math.floor(whole / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (whole < 60) return `${whole} s`;
  if (minutes < 60) return `${minutes} min`;
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

const two = (number) => String(number).padStart(2, "0");

function clock(date) {
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function day(date) {
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

// --- elements --------------------------------------------------------------------------------------------------------

/** An element with these attributes and children; a child that is a text goes in as text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.map((child) => child instanceof Node ? child : printed(child)));
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function setText(element, value) {
  const text = printed(value);
  if (element.textContent !== text) element.textContent = text;
}

/** Its class is that, and one of the words that are known, if it is one of them: for colour and shape. */
function setBadge(element, kind, word, known) {
  setText(element, word);
  element.className = known.includes(word) ? `${kind} ${word}` : kind;
}

/** A bar and what sets it: to so many of a limit, and away where there is none. */
function makeBar() {
  const fill = make("i"), bar = make("span", { class: "bar", "aria-hidden": "true" }, fill);
  const set = (number, most) => {
    const part = most ? Math.min(number / most, 1) : 0;
    fill.style.width = `${(part * 100).toFixed(1)}%`;
    bar.className = !most ? "bar none" : part >= 1 ? "bar full" : part >= 0.8 ? "bar high" : "bar";
  };
  return [bar, set];
}

/** A line of what has been in the last minutes, and the area below it; the ground is red where it was out of order. */
function makeLine(label) {
  const svg = draw("svg", { class: "line", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img" });
  const parts = ["ground", "area", "stroke", "outage"].map((name) => draw("path", { class: name }));
  parts[0].setAttribute("d", "M0 29.5H100");
  svg.append(...parts);
  const set = (trend) => {
    const [area, stroke, outage, words] = pathsOf(trend);
    parts[1].setAttribute("d", area);
    parts[2].setAttribute("d", stroke);
    parts[3].setAttribute("d", outage);
    svg.setAttribute("aria-label", `${label}: ${words}`);
  };
  return [svg, set];
}

/** The area, the stroke and the outages of a trend, as an SVG's paths, and what they show in words. */
function pathsOf(trend) {
  const last = trend[trend.length - 1], most = Math.max(...trend.map((point) => point.value), 1);
  if (trend.length < 2) return ["", "", "", "nothing yet"];
  const width = Math.max(last.time - trend[0].time, LEAST_SECONDS);
  const x = (point) => (100 - (last.time - point.time) / width * 100).toFixed(2);
  const y = (point) => (29 - point.value / most * 27).toFixed(2);
  const stroke = "M" + trend.map((point) => `${x(point)} ${y(point)}`).join("L");
  const area = `${stroke}L${x(last)} 29.5L${x(trend[0])} 29.5Z`;
  const outage = trend.slice(1).map((point, i) => point.well ? "" : `M${x(trend[i])} 29.5L${x(point)} 29.5`).join("");
  return [area, stroke, outage, `now ${speed(last.value)}, at most ${speed(most)}`];
}

// --- what has come since the last look -------------------------------------------------------------------------------

/** How much counters grow in a second: the difference between two looks. One that falls has begun anew. */
class Rates {
  constructor() {
    this.before = new Map();
    this.trends = new Map();
    this.time = null;
  }

  /** The rates of each row by its key, as [value, ...] or [null, ...]; `countersOf` gives the row's counters. */
  take(rows, keyOf, countersOf, now) {
    const seconds = this.time === null ? 0 : (now - this.time) / 1000, after = new Map(), rates = new Map();
    for (const row of rows) {
      const key = keyOf(row), counters = countersOf(row), before = this.before.get(key);
      const isKnown = before && seconds > 0 && counters.every((value, i) => value >= before[i]);
      after.set(key, counters);
      rates.set(key, counters.map((value, i) => isKnown ? (value - before[i]) / seconds : null));
    }
    this.before = after;
    this.time = now;
    return rates;
  }

  /** A trend with one more point; those of keys that are not there any more are left to `forget`. */
  trend(key, value, well, now) {
    const time = now / 1000, points = this.trends.get(key) || [];
    if (value !== null) points.push({ time, value, well });
    while (points.length && points[0].time < time - TREND_SECONDS) points.shift();
    this.trends.set(key, points);
    return points;
  }

  forget(keys) {
    for (const key of this.trends.keys()) if (!keys.has(key)) this.trends.delete(key);
  }
}

// --- tables ----------------------------------------------------------------------------------------------------------

/* A column: title, class of its cells, `label` for where a row is a card, and `make`, which puts into a cell what stays
   there, and returns what paints a row into it. */

/** A cell of a text; on a card it is left out where the row `isIdle` there. */
function textColumn(title, kind, text, more = {}) {
  const paint = (cell) => (row) => {
    setText(cell, text(row));
    cell.classList.toggle("nothing", more.isIdle?.(row) ?? false);
  };
  return { title, kind, ...more, make: paint };
}

function numberColumn(title, key, more = {}) {
  const paint = (cell) => (row) => {
    setText(cell, row[key] === null ? "" : count(row[key]));
    cell.classList.toggle("zero", row[key] === 0);
  };
  return { title, kind: "n", ...more, make: paint };
}

/** A cell of two lines, of which the second is small. */
function twoLines(title, kind, first, second, more = {}) {
  const put = (cell) => {
    const [above, below] = [make("span"), make("small")];
    cell.append(above, below);
    return (row) => {
      setText(above, first(row));
      setText(below, second(row));
    };
  };
  return { title, kind, ...more, make: put };
}

/** A table that keeps the rows that stay, so that focus and selection stay too. */
class Grid {
  constructor(table, columns, { keyOf, classOf = () => "" }) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.classOf = classOf;
    this.rows = new Map();
    this.body = make("tbody", { role: "rowgroup" });
    const heads = columns.map(headOf);
    table.setAttribute("role", "table");
    table.append(make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)), this.body);
    this.heads = heads;
  }

  show(rows) {
    const left = new Map(this.rows);
    let place = this.body.firstChild;
    for (const row of rows) {
      const key = this.keyOf(row), entry = this.rows.get(key) || this.add(key);
      left.delete(key);
      entry.paint(row);
      if (entry.element === place) place = place.nextSibling;
      else this.body.insertBefore(entry.element, place);
    }
    for (const [key, entry] of left) {
      entry.element.remove();
      this.rows.delete(key);
    }
  }

  add(key) {
    const cells = this.columns.map(cellOf), element = make("tr", { role: "row" }, ...cells);
    const painters = this.columns.map((column, i) => column.make(cells[i]));
    const paint = (row) => {
      element.className = this.classOf(row);
      painters.forEach((painter) => painter(row));
    };
    this.rows.set(key, { element, paint });
    return this.rows.get(key);
  }
}

function headOf(column) {
  const head = make("th", { role: "columnheader", scope: "col", class: column.kind }, column.title);
  if (column.hint) head.title = column.hint;
  return head;
}

function cellOf(column) {
  const label = column.label ? { "data-label": column.label } : {};
  return make("td", { role: "cell", class: column.kind, ...label });
}

/** Lets the titles of a table sort it: asks `again` for the rows when the order has changed. */
class Order {
  constructor(grid, key, again) {
    this.key = key;
    this.descends = false;
    this.grid = grid;
    grid.heads.forEach((head, i) => {
      const { sortBy, title } = grid.columns[i];
      if (!sortBy) return;
      const button = make("button", { type: "button" }, title);
      button.addEventListener("click", () => this.by(sortBy, again));
      head.replaceChildren(button);
    });
    this.mark();
  }

  by(key, again) {
    this.descends = this.key === key && !this.descends;
    this.key = key;
    this.mark();
    again();
  }

  mark() {
    this.grid.heads.forEach((head, i) => {
      if (this.grid.columns[i].sortBy !== this.key) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", this.descends ? "descending" : "ascending");
    });
  }

  sort(rows) {
    const turn = this.descends ? -1 : 1;
    return [...rows].sort((one, other) => turn * compare(one[this.key], other[this.key]));
  }
}

/** Numbers by their value, texts as people sort them ("10.0.0.9" before "10.0.0.10"); what is not there comes first. */
const collator = new Intl.Collator("en", { numeric: true });
function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return collator.compare(one ?? "", other ?? "");
}

/** The rows in which each word of a filter stands somewhere. */
function matching(rows, filter, textOf) {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => words.every((word) => textOf(row).toLowerCase().includes(word)));
}

/** Which rows are shown, if not all. */
function shownOf(shown, matched, all) {
  if (shown < matched) return `the first ${count(shown)} of ${count(matched)}${matched < all ? " that match" : ""}`;
  return matched < all ? `${count(matched)} of ${count(all)}` : "";
}

// --- asking gpen -----------------------------------------------------------------------------------------------------

class Refused extends Error {}  // gpen has answered, and says what is wrong
class Unreached extends Error {}

async function ask(path, options = {}) {
  const [answer, text] = await answerTo(path, options);
  const told = parsed(text);
  if (answer.ok && told !== null) return told;
  if (answer.ok) throw new Unreached();
  const refused = new Refused(told?.error || `gpen answers ${answer.status} ${answer.statusText}`);
  refused.status = answer.status;
  throw refused;
}

async function answerTo(path, options) {
  try {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS), ...options });
    return [answer, await answer.text()];
  } catch {
    throw new Unreached();
  }
}

/** What a JSON says; null where it is none, as one that has been cut off. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function api(name, parameters = {}) {
  const words = new URLSearchParams(parameters).toString();
  return ask(`api/${name}${words && "?" + words}`);
}

/** Does its work again and again while the page is seen: each second where that is fast, and less often the longer it
    takes. It is never done twice at the same time. */
class Repeating {
  constructor(work) {
    this.work = work;
    this.timer = null;
    this.isOn = this.isBusy = this.isWanted = false;
    document.addEventListener("visibilitychange", () => this.isOn && !document.hidden && this.now());
  }

  start() {
    this.isOn = true;
    this.now();
  }

  stop() {
    this.isOn = false;
    clearTimeout(this.timer);
  }

  /** Do it at once, or, if it is being done, once more behind that. */
  async now() {
    clearTimeout(this.timer);
    if (this.isBusy) {
      this.isWanted = true;
      return;
    }
    this.isBusy = true;
    const began = performance.now();
    await this.work();
    this.isBusy = false;
    this.later(performance.now() - began);
  }

  later(took) {
    const pause = this.isWanted ? 0 : took < 150 ? 1000 : Math.min(Math.max(2000, 3 * took), 10000);
    this.isWanted = false;
    if (this.isOn) this.timer = setTimeout(() => document.hidden || this.now(), pause);
  }
}

// --- the head --------------------------------------------------------------------------------------------------------

function figure(title, kind, ...below) {
  const value = make("dd"), small = make("small"), words = make("span");
  value.append(words, " ", small);
  const element = make("div", { class: `figure ${kind}` }, make("dt", {}, title), value, ...below);
  $("figures").append(element);
  return (text, more = "", isBad = false) => {
    setText(words, text);
    setText(small, more);
    element.classList.toggle("bad", isBad);
  };
}

class Head {
  constructor() {
    const [bar, setBar] = makeBar(), [up, setUp] = makeLine("bytes to servers"), [down, setDown] = makeLine("to clients");
    this.setServers = figure("Servers up", "");
    this.setSessions = figure("Sessions", "", bar);
    this.setFresh = figure("New sessions", "rate");
    this.setUp = figure("To servers", "rate", up);
    this.setDown = figure("To clients", "rate", down);
    this.setWaiting = figure("Waiting clients", "");
    Object.assign(this, { setBar, setUpLine: setUp, setDownLine: setDown });
  }

  show(info, servers, fresh, bytes) {
    const there = servers.filter((server) => server.health !== "empty" && server.number !== null);
    const well = there.filter(isWell);
    setText($("address"), addressesOf(info));
    setText($("about"), `version ${info.version} (${info.flavour}), up for ${span(info.uptime)}`);
    this.setServers(count(well.length), `of ${count(there.length)}`, well.length < there.length);
    this.setSessions(count(info.sessions), `of ${count(info.conn_max)}`);
    this.setBar(info.sessions, info.conn_max);
    this.setFresh(rate(fresh), `a second, ${count(info.total)} in all`);
    this.setUp(speed(bytes.up));
    this.setDown(speed(bytes.down));
    this.setUpLine(bytes.upTrend);
    this.setDownLine(bytes.downTrend);
    this.setWaiting(count(info.held), `${count(info.clients)} remembered`, info.held > 0);
    document.title = titleOf(info, there.length - well.length);
    showIcon(well.length < there.length);
    showEndings(info);
  }
}

function isWell(server) {
  return server.health === "up";
}

/** Where gpen listens: the first three addresses. */
function addressesOf(info) {
  const all = info.listen.split(", ").filter(Boolean), more = all.length - 3;
  return all.length ? `at ${all.slice(0, 3).join(", ")}${more > 0 ? ` and ${count(more)} more` : ""}` : "";
}

function titleOf(info, unwell) {
  return `${unwell ? `${unwell} not well: ` : ""}gpen ${printed(addressesOf(info))}`;
}

/** The icon of the tab: a green circle, or a red square. */
function showIcon(isBad) {
  const shape = isBad ? "%3Crect width='14' height='14' x='1' y='1' rx='2' fill='%23d1242f'/%3E"
    : "%3Ccircle cx='8' cy='8' r='7' fill='%232da44e'/%3E";
  const link = document.querySelector("link[rel=icon]");
  const address = `data:image/svg+xml,%3Csvg xmlns='${SVG}' viewBox='0 0 16 16'%3E${shape}%3C/svg%3E`;
  if (link && link.getAttribute("href") !== address) link.setAttribute("href", address);
}

/** How sessions have ended, errors first. */
function showEndings(info) {
  const isError = ([word]) => info.errors.includes(word);
  const endings = Object.entries(info.endings).filter(([, number]) => number);
  endings.sort((one, other) => isError(other) - isError(one) || compare(one[0], other[0]));
  if (info.looped) endings.unshift(["datagrams in a loop, dropped", info.looped]);
  const chips = endings.map((ending) => make("li", isError(ending) ? { class: "bad" } : {},
    isError(ending) ? "error: " : "", `${ending[0]} `, make("b", {}, count(ending[1]))));
  const ids = endings.map(String).join();
  if ($("endings").dataset.shown !== ids) $("endings").replaceChildren(...chips);
  $("endings").dataset.shown = ids;
}

// --- listeners and servers -------------------------------------------------------------------------------------------

const listenerName = (row) => row.name ?? "-";

/** Numbers in order, what follows one another as a range: "0-3, 7"; "all" for null. */
function numbersInWords(numbers) {
  if (numbers === null) return "all";
  const runs = [];
  for (const number of [...numbers].sort((one, other) => one - other)) {
    const run = runs[runs.length - 1];
    if (run && number === run[run.length - 1] + 1) run.push(number);
    else runs.push([number]);
  }
  const words = runs.map((run) => run.length > 2 ? `${run[0]}-${run[run.length - 1]}` : run.join(", "));
  return words.join(", ") || "none";
}

/** The servers that a listener uses, and how many routes lead to some of them, or others. */
function usedOf(row) {
  const routes = row.routes.length ? `, ${counted(row.routes.length, "route")}` : "";
  return numbersInWords(row.servers) + routes;
}

/** Clients that wait for a server, and those that have yet to be let in. */
function waitingColumn() {
  const paint = (cell) => (row) => {
    setText(cell, count(row.held) + (row.waiting ? ` + ${count(row.waiting)} in the kernel` : ""));
    cell.classList.toggle("zero", !row.held && !row.waiting);
  };
  return { title: "Waiting", kind: "n", label: "waiting", make: paint };
}

function sessionsColumn(mostOf, textOf) {
  const put = (cell) => {
    const words = make("span"), [bar, set] = makeBar();
    cell.append(words, bar);
    return (row) => {
      setText(words, textOf(row));
      set(row.sessions, mostOf(row));
    };
  };
  return { title: "Sessions", kind: "sessions", label: "sessions", make: put };
}

function listenerColumns(choose) {
  const name = (cell) => {
    const button = make("button", { class: "plain", type: "button" }), text = make("span", { class: "name" });
    let which = "-";
    cell.append(text, button);
    button.addEventListener("click", () => choose(which));
    return (row) => {
      which = listenerName(row);
      text.hidden = row.canChoose;
      button.hidden = !row.canChoose;
      setText(text, which);
      setText(button, which);
      button.setAttribute("aria-pressed", row.isChosen);
      button.setAttribute("aria-label", `Show the servers as listener ${printed(which)} has them`);
    };
  };
  return [
    { title: "Listener", kind: "who", make: name },
    textColumn("Address", "", (row) => row.address),
    textColumn("Clients speak", "tight", (row) => row.protocol),
    textColumn("Servers chosen by", "", (row) => row.rule, { label: "by" }),
    textColumn("Servers", "", usedOf, { label: "servers" }),
    textColumn("Memory shared with", "memory", (row) => row.tracking_with ?? "",
      { label: "memory shared with", isIdle: (row) => row.tracking_with === null }),
    sessionsColumn((row) => row.conn_max, (row) => `${count(row.sessions)} of ${count(row.conn_max)}`),
    waitingColumn(),
    textColumn("New/s", "n rate", (row) => rate(row.rates[0]), { label: "new/s" }),
    twoLines("Bytes/s", "n rate speed", (row) => `↑ ${speed(row.rates[1])}`, (row) => `↓ ${speed(row.rates[2])}`,
      { hint: "to servers, and to clients" }),
    numberColumn("Total", "total", { label: "total" }),
  ];
}

/** Where a server is, with the name that it was given by. */
function placeOf(server) {
  const bare = server.address.includes(":") && !server.address.startsWith("[") && !server.address.includes("/");
  const address = bare ? `[${server.address}]` : server.address;
  const where = server.port ? `${address}:${server.port}` : address;
  return server.host === server.address ? where : `${where} (${server.host})`;
}

/** The address that a server was given, as commands take it: the number may be another server's by then. */
function givenOf(server) {
  const host = server.host.includes(":") && !server.host.includes("/") ? `[${server.host}]` : server.host;
  return server.port ? `${host}:${server.port}` : host;
}

function nameOf(server) {
  return server.number === null ? server.name : `server ${server.number}`;
}

/** The reason for a server's health; of one that is up, what a check or a program has said of it, and how far one is
    that has come back. */
function reasonOf(server) {
  const again = server.blacklisted ? ` (tried again in ${span(server.blacklisted)})` : "";
  const start = server.slow_start === null ? "" : `slow start, ${server.slow_start} %`;
  return [(server.reason || server.verdict_reason || "") + again, start].filter(Boolean).join(", ");
}

/** For how many seconds a server's health has been what it is. */
function healthAge(server) {
  return server.verdict === server.health ? server.verdict_for : server.for;
}

function healthColumn() {
  const put = (cell) => {
    const badge = make("span"), since = make("small");
    cell.append(badge, since);
    return (row) => {
      setBadge(badge, "badge", row.health, HEALTH);
      setText(since, span(healthAge(row)));
      since.title = `since ${new Date((row.verdict === row.health ? row.verdict_since : row.since) * 1000).toString()}`;
    };
  };
  return { title: "Health", kind: "tight health", hint: "and since when", make: put };
}

function stateColumn() {
  const put = (cell) => {
    const word = make("span");
    cell.append(word);
    return (row) => setBadge(word, "state", row.state, STATES);
  };
  return { title: "State", kind: "tight", hint: "what an operator has said: ready, drain or maint", make: put };
}

function reasonColumn() {
  const put = (cell) => {
    const reason = make("span"), by = make("small");
    cell.append(reason, by);
    return (row) => {
      setText(reason, reasonOf(row));
      setText(by, row.verdict_by ? `by ${row.verdict_by}` : "");
      cell.classList.toggle("nothing", !reasonOf(row));
    };
  };
  return { title: "Reason", kind: "reason", make: put };
}

function trendColumn() {
  const put = (cell) => {
    const [line, set] = makeLine("bytes a second");
    cell.append(line);
    return (row) => set(row.trend);
  };
  return { title: "Last minutes", kind: "trend rate", hint: "bytes a second; red where it was not up", make: put };
}

function limitsColumn() {
  const text = (row) => `${row.max || "–"} / ${row.hard || "–"}`;
  const hint = "most sessions, and most for clients that it knows";
  return textColumn("Max / hard", "n late", text, { label: "max/hard", hint, isIdle: (row) => !row.hard });
}

/** What has made connects fail, and how often. */
function causesOf(row) {
  return Object.entries(row.causes).map(([cause, number]) => `${printed(cause)}: ${count(number)}`).join("\n");
}

function failuresColumn() {
  const put = (cell) => (row) => {
    setText(cell, count(row.failures));
    cell.title = causesOf(row);
    cell.classList.toggle("failed-some", row.failures > 0);
    cell.classList.toggle("zero", !row.failures);
    cell.classList.toggle("nothing", !row.failures);
  };
  return { title: "Failed", kind: "n late", label: "failed", make: put };
}

function serverColumns() {
  const sessions = (row) => {
    const old = row.old ? ` + ${count(row.old)} old` : "";
    return row.max ? `${count(row.sessions)}${old} of ${count(row.max)}` : count(row.sessions) + old;
  };
  return [
    twoLines("Server", "who", (row) => row.number === null ? row.name : row.number, placeOf),
    healthColumn(),
    stateColumn(),
    reasonColumn(),
    sessionsColumn((row) => row.max, sessions),
    textColumn("New/s", "n rate fresh", (row) => rate(row.rates[0]), { label: "new/s" }),
    twoLines("Bytes/s", "n rate speed", (row) => `↑ ${speed(row.rates[1])}`, (row) => `↓ ${speed(row.rates[2])}`,
      { hint: "to the server, and from it" }),
    trendColumn(),
    numberColumn("Total", "total", { kind: "n late", label: "total", hint: "sessions so far" }),
    twoLines("Bytes", "n late", (row) => `↑ ${size(row.sx)}`, (row) => `↓ ${size(row.rx)}`,
      { hint: "to the server, and from it, so far" }),
    failuresColumn(),
    textColumn("Weight / prio", "n late", (row) => `${weightOf(row)} / ${row.prio}`, { label: "weight/prio",
      isIdle: (row) => row.weight === 1 && row.weight_now === 1 && !row.prio }),
    limitsColumn(),
  ];
}

/** A server's weight; and what its agent has left of it, where that is something else. */
function weightOf(row) {
  return row.weight_now === row.weight ? row.weight : `${row.weight_now} of ${row.weight}`;
}

function serverKey(row) {
  return `${row.number} ${row.name} ${row.host} ${row.port}`;
}

/** The buttons that change a server's state: those of the states that it is not in. */
function actionsColumn(act) {
  const put = (cell) => {
    let server = null;
    const buttons = STATES.map((state) => {
      const button = make("button", { type: "button" }, state);
      button.addEventListener("click", () => act(state, server));
      return button;
    });
    cell.append(...buttons);
    return (row) => {
      server = row;
      buttons.forEach((button, i) => {
        button.hidden = row.number === null || row.state === STATES[i];
        button.setAttribute("aria-label", `${STATES[i]} ${nameOf(row)}`);
      });
    };
  };
  return { title: "", kind: "actions", make: put };
}

// --- events, explain -------------------------------------------------------------------------------------------------

const EVENT_KINDS = { down: "down", failed: "down", "cut off": "down", deleted: "empty", up: "up", connected: "up",
  drained: "drain", drain: "drain", maint: "drain", ready: "up" };

function subjectOf(event) {
  if (event.server !== null) return typeof event.server === "number" ? `server ${event.server}` : event.server;
  return event.listener ? `listener ${event.listener}` : "gpen";
}

function eventItem(event) {
  const when = new Date(event.time * 1000);
  const time = make("time", { datetime: when.toISOString(), title: when.toString() }, clock(when));
  const kind = Object.hasOwn(EVENT_KINDS, event.event) ? EVENT_KINDS[event.event] : "other";
  return make("li", {}, time, make("span", {}, subjectOf(event)), make("span", { class: `badge ${kind}` }, event.event),
    make("span", {}, event.cause));
}

/** Events, the newest first. */
function showEvents(events) {
  const list = $("events"), shown = JSON.stringify(events);
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  list.replaceChildren(...[...events].reverse().map(eventItem));
  setText($("events-more"), events.length ? "" : "none yet");
}

function serverInWords(label, address) {
  return `${typeof label === "number" ? `server ${label}` : `the ${label} server`} (${address})`;
}

/** The answer of `explain` in words. */
function explanation(row) {
  const chosen = row.server === null ? "no server" : serverInWords(row.server, row.server_address);
  const route = row.route ? ` (route ${row.route})` : "";
  const parts = [make("p", { class: "answer" }, `${row.client} would get ${chosen}: ${row.why}${route}.`)];
  if (row.sessions) parts.push(make("p", { class: "soft" }, `It has ${counted(row.sessions, "session")} now.`));
  const others = row.others.slice(0, MOST_ROWS).map((other) => make("li", {}, "not ",
    make("b", {}, serverInWords(other.server, other.address)), `: ${other.why_not}`));
  return [...parts, make("ul", {}, ...others)];
}

async function explain(listener) {
  const address = $("explain-address").value.trim(), input = $("explain-name");
  const name = input.hidden ? "" : input.value.trim(), asked = name ? { sni: name, host: name } : {};
  try {
    const row = await api("explain", { address, ...asked, ...listener });
    $("explained").replaceChildren(...explanation(row));
  } catch (error) {
    $("explained").replaceChildren(make("p", { class: "error" }, problemOf(error)));
  }
}

function problemOf(error) {
  return error instanceof Unreached ? "gpen can't be reached; try again" : error.message;
}

// --- questions before something is done ------------------------------------------------------------------------------

const QUESTIONS = {
  drain: ["Drain", "It gets no new clients; those that it has stay."],
  maint: ["Maintain", "It gets no new clients, and the sessions that it has are closed."],
  ready: ["Make ready", "It gets clients again."],
  close: ["Close", "Its client and its server lose their connection."],
};

/** A token as a header can hold it: the bytes of its UTF-8, each as one character. */
function encoded(token) {
  return String.fromCharCode(...new TextEncoder().encode(token));
}

/** Asks, and does it once that is confirmed; what goes wrong is shown, and can be tried again. */
class Question {
  constructor(done) {
    this.done = done;
    this.action = null;
    $("question-no").addEventListener("click", () => $("question").close());
    $("question-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.confirm();
    });
  }

  /** `what` is told to gpen: the action, and the number of what it is about. */
  ask(what, subject) {
    const [verb, text] = QUESTIONS[what.action];
    this.action = what;
    setText($("question-title"), `${verb} ${subject}?`);
    setText($("question-text"), text);
    setText($("question-yes"), verb);
    setText($("question-error"), "");
    this.askForToken();
    $("question").showModal();
  }

  askForToken() {
    $("token-row").hidden = sessionStorage.getItem("gpen-token") !== null;
    $("token").value = "";
  }

  async confirm() {
    const token = sessionStorage.getItem("gpen-token") ?? $("token").value;
    $("question-yes").disabled = true;
    try {
      await ask("api/control", { method: "POST", body: JSON.stringify(this.action), headers: {
        "Authorization": `Bearer ${encoded(token)}`, "Content-Type": "application/json" } });
      sessionStorage.setItem("gpen-token", token);
      $("question").close();
      this.done();
    } catch (error) {
      this.failed(error);
    } finally {
      $("question-yes").disabled = false;
    }
  }

  failed(error) {
    if (error.status === 401) sessionStorage.removeItem("gpen-token");
    setText($("question-error"), problemOf(error));
    this.askForToken();
  }
}

// --- sessions, clients, workers --------------------------------------------------------------------------------------

/** What a session's TLS agreed on, with the client and with the server. */
function securedOf(row) {
  const inWords = (...words) => words.filter(Boolean).join(" ");
  const there = inWords(row.server_tls, row.server_cipher, row.tls_name);
  return inWords(row.tls, row.cipher, row.sni, row.subject, there && `to the server ${there}`);
}

/** A session as its row in the table has it. */
function sessionRow(row) {
  const way = [row.listener, row.route && `route ${row.route}`].filter(Boolean).join(", ");
  return { ...row, way, secured: securedOf(row) };
}

function sessionInWords(row) {
  const server = row.server === null ? "" : ` at ${serverInWords(row.server, row.server_address)}`;
  return `session ${row.id} of ${row.client}${server}`;
}

function sessionColumns() {
  const text = (title, key, kind = "") => textColumn(title, kind, (row) => row[key] ?? "", { sortBy: key });
  const figures = (title, key, shown) => textColumn(title, "n", (row) => shown(row[key]), { sortBy: key });
  return [
    text("Session", "id"), text("Listener", "way"), text("Client", "client"), text("Server", "server"),
    text("Address", "server_address"), text("State", "state"), figures("Age", "age", span), figures("Idle", "idle", span),
    figures("To server", "up", size), figures("To client", "down", size), text("TLS", "secured"),
  ];
}

function closeColumn(act) {
  const put = (cell) => {
    let session = null;
    const button = make("button", { type: "button" }, "close");
    button.addEventListener("click", () => act(session));
    cell.append(button);
    return (row) => {
      session = row;
      button.setAttribute("aria-label", `close session ${row.id}`);
    };
  };
  return { title: "", kind: "actions", make: put };
}

function recentColumns() {
  const text = (title, key, kind, shown) => textColumn(title, kind, (row) => shown(row[key] ?? ""), { sortBy: key });
  const same = (value) => value;
  return [
    text("Client", "address", "", same), text("Sessions", "sessions", "n", count), text("Connects", "connects", "n", count),
    text("Server", "server", "", same), text("Seen", "idle", "n", (seconds) => `${span(seconds)} ago`),
    text("To client", "sx", "n", size), text("From client", "rx", "n", size),
  ];
}

function workerColumns() {
  return [
    numberColumn("Worker", "number"), textColumn("Process", "n", (row) => row.pid), numberColumn("Sessions", "sessions"),
    textColumn("New/s", "n rate", (row) => rate(row.rates[0])), numberColumn("Total", "total"),
    textColumn("Processor", "n rate", (row) => row.rates[1] === null ? "–" : `${Math.round(row.rates[1] * 100)} %`),
    textColumn("CPU time", "n", (row) => `${row.cpu.toFixed(2)} s`),
    textColumn("Without a sign for", "n", (row) => span(row.silent)),
  ];
}

/** A table that can be sorted and filtered, and is asked for only while its section is open. */
class Section {
  constructor(name, columns, key, load) {
    this.name = name;
    this.rows = [];
    this.more = "";
    this.grid = new Grid($(name), columns, { keyOf: (row) => row[key] });
    this.order = new Order(this.grid, key, () => this.paint());
    this.filter = $(`${name}-filter`);
    this.filter?.addEventListener("input", () => this.paint());
    if (load) this.listen(load);
  }

  listen(load) {
    const section = $(`${this.name}-section`);
    this.repeating = new Repeating(async () => {
      try {
        this.show(await load());
      } catch (error) {
        setText($(`${this.name}-more`), problemOf(error));
      }
    });
    section.addEventListener("toggle", () => section.open ? this.repeating.start() : this.repeating.stop());
  }

  show(rows, more = "") {
    this.rows = rows;
    this.more = more;
    this.paint();
  }

  paint() {
    const textOf = (row) => Object.values(row).join(" ");
    const matched = matching(this.rows, this.filter?.value ?? "", textOf);
    const shown = this.order.sort(matched).slice(0, MOST_ROWS);
    this.grid.show(shown);
    const all = this.rows.length;
    setText($(`${this.name}-more`), this.more || shownOf(shown.length, matched.length, all) || (all ? count(all) : "none"));
  }
}

// --- the page --------------------------------------------------------------------------------------------------------

class Page {
  constructor(isLive) {
    this.isLive = isLive;
    this.chosen = null;  // the name of a listener, "-" for the one without; null: none is chosen
    this.hasControl = false;
    this.silentSince = null;
    this.servers = [];
    this.rates = { info: new Rates(), servers: new Rates(), listeners: new Rates(), workers: new Rates() };
    this.head = new Head();
    this.listenerGrid = new Grid($("listeners"), listenerColumns((name) => this.choose(name)),
      { keyOf: listenerName, classOf: (row) => row.isChosen ? "chosen" : "" });
    this.workerGrid = new Grid($("workers"), workerColumns(), { keyOf: (row) => row.number });
    this.makeServers();
    this.question = new Question(() => this.refresh());
    this.sessions = new Section("sessions", sessionColumns(), "id", isLive && (() => this.loadSessions()));
    this.recent = new Section("recent", recentColumns(), "address",
      isLive && (() => api("recent", { seconds: RECENT_SECONDS, ...this.ofListener() })));
    $("servers-filter").addEventListener("input", () => this.paintServers());
  }

  makeServers() {
    const act = (action, row) =>
      this.question.ask({ action, number: row.number, at: givenOf(row) }, `${nameOf(row)} (${placeOf(row)})`);
    $("servers").replaceChildren();
    this.serverGrid = new Grid($("servers"), [...serverColumns(), ...(this.hasControl ? [actionsColumn(act)] : [])],
      { keyOf: serverKey, classOf: (row) => HEALTH.includes(row.health) ? `is-${row.health}` : "" });
  }

  start() {
    this.repeating = new Repeating(() => this.poll());
    this.repeating.start();
    $("all-servers").addEventListener("click", () => this.choose(null));
    $("explain").addEventListener("submit", (event) => {
      event.preventDefault();
      explain(this.ofListener());
    });
  }

  /** What says in a question that it is about the chosen listener; for the one without a name nothing does. */
  ofListener() {
    return this.chosen === null || this.chosen === "-" ? {} : { listener: this.chosen };
  }

  choose(name) {
    this.chosen = this.chosen === name ? null : name;
    this.refresh();
  }

  refresh() {
    this.repeating.now();
    for (const section of [this.sessions, this.recent]) if (section.repeating.isOn) section.repeating.now();
  }

  async poll() {
    try {
      const [info, listeners] = await Promise.all([api("info"), api("listeners")]);
      if (!listeners.some((row) => listenerName(row) === this.chosen)) this.chosen = null;
      const [all, events, its] = await Promise.all([api("servers"), api("events", { n: EVENTS, ...this.ofListener() }),
        this.chosen === null ? null : api("servers", this.ofListener())]);
      this.reached();
      this.show({ info, listeners, events, servers: its ?? all }, all);
    } catch (error) {
      this.missed(error);
    }
  }

  reached() {
    this.silentSince = null;
    $("notice").hidden = true;
    document.body.classList.remove("stale");
    setText($("live"), "live");
    $("live").className = "live on";
  }

  /** Say that gpen does not answer, and since when; or what it says, if it does. */
  missed(error) {
    this.silentSince ??= new Date();
    const since = `${clock(this.silentSince)} (${span((Date.now() - this.silentSince) / 1000)})`;
    const what = error instanceof Unreached ? "gpen can't be reached" : `gpen can't be shown: ${error.message},`;
    setText($("notice"), `${what} since ${since}. It is asked again and again; what is shown is older.`);
    $("notice").hidden = false;
    document.body.classList.add("stale");
    setText($("live"), "not reached");
    $("live").className = "live off";
  }

  /** Draw what has been told; `all` are the servers for all listeners. */
  show(data, all) {
    const now = performance.now();
    $("main").hidden = false;
    this.showHead(data.info, all, now);
    this.showListeners(data.listeners, now);
    this.showControl(data.info.control);
    this.showServers(data.servers, now);
    this.showWorkers(data.info.workers, now);
    showEvents(data.events);
  }

  showHead(info, servers, now) {
    const key = () => "gpen", [fresh] = this.rates.info.take([info], key, (row) => [row.total], now).get("gpen");
    const rates = [...this.rates.servers.take(servers, serverKey, (row) => [row.total, row.sx, row.rx], now).values()];
    const known = rates.filter((row) => row[1] !== null);
    const sum = (i) => known.length ? known.reduce((total, row) => total + row[i], 0) : null;
    const bytes = { up: sum(1), down: sum(2) };
    bytes.upTrend = this.rates.info.trend("up", bytes.up, true, now);
    bytes.downTrend = this.rates.info.trend("down", bytes.down, true, now);
    this.serverRates = new Map(servers.map((row, i) => [serverKey(row), rates[i]]));
    for (const row of servers) this.addTrend(row, now);
    this.rates.servers.forget(new Set(servers.map(serverKey)));
    this.head.show(info, servers, fresh, bytes);
  }

  addTrend(row, now) {
    const [, up, down] = this.serverRates.get(serverKey(row));
    this.rates.servers.trend(serverKey(row), up === null ? null : up + down, isWell(row), now);
  }

  showListeners(rows, now) {
    const rates = this.rates.listeners.take(rows, listenerName, (row) => [row.total, row.sx, row.rx], now);
    const canChoose = this.isLive && rows.length > 1;
    const shown = rows.slice(0, MOST_ROWS).map((row) => ({ ...row, canChoose, rates: rates.get(listenerName(row)),
      isChosen: listenerName(row) === this.chosen }));
    this.listenerGrid.show(shown);
    $("listeners").classList.toggle("alone", rows.every((row) => row.tracking_with === null));
    setText($("listeners-more"), shownOf(shown.length, rows.length, rows.length));
    $("explain-name").hidden = rows.every((row) => !row.routes.length);
    $("all-servers").hidden = this.chosen === null;
    setText($("servers-title"), this.chosen === null ? "Servers" : `Servers as listener ${this.chosen} has them`);
    setText($("sessions-title"), this.chosen === null ? "Sessions" : `Sessions of listener ${this.chosen}`);
  }

  showControl(isOn) {
    if (isOn === this.hasControl || !this.isLive) return;
    this.hasControl = isOn;
    this.makeServers();
    const close = closeColumn((row) => this.question.ask({ action: "close", number: row.id }, sessionInWords(row)));
    $("sessions").replaceChildren();
    this.sessions.grid = new Grid($("sessions"), [...sessionColumns(), ...(isOn ? [close] : [])],
      { keyOf: (row) => row.id });
    this.sessions.order = new Order(this.sessions.grid, this.sessions.order.key, () => this.sessions.paint());
    this.sessions.paint();
  }

  showServers(rows, now) {
    const trends = this.rates.servers.trends;
    this.servers = rows.map((row) => ({ ...row, rates: this.serverRates.get(serverKey(row)) ?? [null, null, null],
      trend: trends.get(serverKey(row)) ?? [] }));
    $("servers-filter").hidden = rows.length <= 10;
    this.paintServers();
  }

  paintServers() {
    const textOf = (row) => `${nameOf(row)} ${row.name} ${placeOf(row)} ${row.health} ${row.state} ${reasonOf(row)}`;
    const matched = matching(this.servers, $("servers-filter").value, textOf);
    const shown = matched.slice(0, MOST_ROWS);
    this.serverGrid.show(shown);
    setText($("servers-more"), this.servers.length ? shownOf(shown.length, matched.length, this.servers.length) : "none");
  }

  showWorkers(rows, now) {
    const rates = this.rates.workers.take(rows, (row) => row.pid, (row) => [row.total, row.cpu], now);
    this.workerGrid.show(rows.map((row) => ({ ...row, rates: rates.get(row.pid) })));
    $("workers-section").hidden = !rows.length;
  }

  async loadSessions() {
    const rows = await api("sessions", this.ofListener());
    const its = this.chosen === "-" ? rows.filter((row) => row.listener === null) : rows;
    return its.map(sessionRow);
  }

  /** Draw a snapshot: what was told once, and no more. */
  showSnapshot(data) {
    const when = new Date(data.as_of * 1000);
    document.body.classList.add("snapshot");
    this.show(data, data.servers);
    setText($("live"), `as of ${day(when)} ${clock(when)}`);
    $("live").title = when.toISOString();
    $("explain-section").hidden = true;
    for (const name of ["sessions", "recent"]) $(`${name}-section`).open = true;
    this.sessions.show(data.sessions.map(sessionRow), moreOf(data, "sessions"));
    this.recent.show(data.recent, moreOf(data, "recent"));
    for (const name of ["servers", "listeners"]) if (data.cut.includes(name)) setText($(`${name}-more`), moreOf(data, name));
  }
}

/** What stands at a table of which a snapshot has the beginning only. */
function moreOf(data, name) {
  return data.cut.includes(name) ? `and more: the first ${count(data[name].length)} are shown` : "";
}

const embedded = $("data");
if (embedded) new Page(false).showSnapshot(JSON.parse(embedded.textContent));
else new Page(true).start();
