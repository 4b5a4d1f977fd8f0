"""Shell completion for gpen and gpenctl, made from the command table.

    python -m gpen.docs.completion bash > contrib/completion/gpen.bash
    python -m gpen.docs.completion zsh > contrib/completion/_gpen

Both scripts hold the same shell functions: ``_gpen_after`` and ``_gpen_after_listener`` know what may follow the words
of a command, ``_gpen_listeners`` asks the gpen at gpenctl's TARGET for the names of its listeners. What this version
lacks (``Setting.missing``) is not offered.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from gpen.control.commands import COMMANDS, OPTIONS, SCOPED, SHARED_NAMES, Command, Option, scoped_usage
from gpen.control.help import IGNORED, brief
from gpen.model.settings import SETTINGS, Setting

# gpenctl's own; a test holds them against gpenctl's usage text.
CTL_OPTIONS = (
    Option("-f", "FORMAT", "How replies are shown."),
    Option("--format", "FORMAT", "How replies are shown."),
    Option("-t", "SEC", "How long to wait for a connection, and for an answer."),
    Option("--timeout", "SEC", "How long to wait for a connection, and for an answer."),
    Option("--color", "WHEN", "Whether tables have colors."),
    Option("-h", "", "Show the usage."),
    Option("--help", "", "Show the usage."),
    Option("--version", "", "Show the version."),
)
CTL_NAMES = {
    "no": "Switch a command off, or put a setting's default back.",
    "top": "Servers, sessions and events on the whole terminal, with keys. Needs rich.",
    "watch": "Redraw the tables of servers and listeners until Ctrl-C.",
}

# What a shell offers for an option's argument: a kind that it can complete itself (COMMAND: a command's name, LISTENER:
# the name of one of those there are) or words.
KINDS = ("FILE", "DIR", "USER", "COMMAND", "LISTENER")
PLACES = {kind: kind for kind in KINDS} | {"PROGRAM": "FILE"}
ARGUMENTS = PLACES | {
    "ADDRESS": "FILE",  # a unix socket
    "CONTROL": "FILE",
    "WHICH": "FILE",
    "PATH": "FILE",
    "POLICY": "avoid use never",
    "FORM": "auto json lines yaml",
    "FORMAT": "table plain json csv",
    "WHEN": "auto always never",
}

# What may follow where a usage line has groups of words, as rows() gives it.
ROWS = {
    "route": (
        ('"route 0 "*', "sni alpn host default"),
        ('"route "*" servers"', "all"),
        ('"route 1 default"', "servers reject"),
        ('"route "*" reject"', ""),
        ('"route 2 "*', "servers reject"),
    ),
}


def commands() -> list[Command]:
    """The commands that this version has, by name."""
    return _commands_of(COMMANDS)


def scoped_commands() -> list[Command]:
    """Those that may stand behind ``listener NAME``, as they are written there."""
    return [replace(command, usage=scoped_usage(command)) for command in _commands_of(SCOPED)]


def _commands_of(table: Mapping[str, Command]) -> list[Command]:
    return [command for _, command in sorted(table.items()) if _present(command.setting)]


def options() -> list[Option]:
    """gpen's options that this version has, and that do something, by flag."""
    return sorted((o for o in OPTIONS if _present(SETTINGS.get(o.setting)) and o.topic != IGNORED),
                  key=lambda o: o.flag.lower())


def _present(setting: Setting | None) -> bool:
    return setting is None or not setting.missing


def rows(command: Command) -> Iterator[tuple[str, str]]:
    """What may follow a command's words: pairs of a shell pattern and what it calls for; the first counts.

    The pattern is for "COMMAND COUNT PREVIOUS": how many words stand behind the command already, and the
    last of them. What it calls for is one of KINDS, or words with blanks between them, or nothing.

    In a usage line small letters are words to type and large ones placeholders; what stands in brackets may
    be left out; ``a|b`` is a choice; `` | `` stands between two ways to write the command. What stands in brackets
    within brackets is not offered.
    """
    if command.name in ROWS:
        yield from ROWS[command.name]
        return
    places: dict[int, str] = {}  # by COUNT
    keywords: dict[str, str] = {}  # what may stand anywhere behind the required words -> its values
    flags: set[str] = set()  # those of them that have none
    for way in command.usage.split(" | "):
        groups = re.findall(r"\[(?:[^][]|\[[^]]*])*]|\S+", way)[1:]
        required = [group for group in groups if group[0] != "["]
        for place, word in enumerate(required):
            places[place] = places.get(place) or _offer(word)
        for optional in (group[1:-1] for group in groups if group[0] == "["):
            word, *value = optional.split()
            if word.islower() and "|" not in word:
                keywords[word] = _offer(*value[:1])
                flags |= set() if value else {word}
            elif offered := _offer("|".join(choice.split()[0] for choice in optional.split("|"))):
                places[len(required)] = offered
    if command.setting is not None and command.setting.kind.choices and not any(places.values()):
        places[0] = _words(command.setting.kind.choices)  # which its usage does not list
    for place, words in places.items():
        if words or keywords:
            yield f'"{command.name} {place} "*', words
    names = list(keywords)
    for keyword, words in keywords.items():
        behind = names[names.index(keyword) + 1:] if keyword in flags else [words]
        yield f'"{command.name} "*" {keyword}"', " ".join(behind)
    if keywords:
        yield f'"{command.name} "*', " ".join(keywords)


def _offer(word: str = "") -> str:
    """What a shell can offer for a word of a usage line; nothing where only the user knows."""
    choices = word.split("|")
    if choices[0] in PLACES:
        return PLACES[choices[0]]
    names = [name for name in SHARED_NAMES if _present(SETTINGS[name])] if choices[0] == "SETTING" else []
    return _words([*names, *filter(str.islower, choices)])


# --- pieces of both scripts ---------------------------------------------------------------------------------


_LISTENERS = r"""# The names of the listeners of the gpen at $2; $1 is gpenctl. Nothing but names may come from there:
# bash expands what it offers.
_gpen_listeners() {
    "$1" -f plain -t 2 "$2" listeners 2>/dev/null | LC_ALL=C sed -nE 's/^([A-Za-z0-9][A-Za-z0-9_.-]*) listen .*/\1/p'
}"""


def _after() -> str:
    own = [command for command in scoped_commands() if SCOPED[command.name] is not COMMANDS.get(command.name)]
    return "\n".join((
        "# What may follow: $1 is the command, $2 how many words stand behind it, $3 the last of them.",
        *_function("_gpen_after", (command for command in commands() if command.name != "listener")),
        "",
        "# The same behind listener NAME.",
        *_function("_gpen_after_listener", own, '*) _gpen_after "$@" ;;'),
        "",
        _LISTENERS,
    ))


def _function(name: str, commands: Iterable[Command], *others: str) -> Iterator[str]:
    yield f"{name}() {{"
    yield '    case "$1 $2 $3" in'
    yield from (f"        {pattern}) {_echo(words)};;" for command in commands for pattern, words in rows(command))
    yield from (f"        {case}" for case in others)
    yield from ("    esac", "}")


def _echo(words: str) -> str:
    return f'echo "{words}" ' if words else ""


def fill(template: str, **pieces: str) -> str:
    """The template with each @name@ replaced."""
    return re.sub(r"@(\w+)@", lambda match: pieces[match[1]], template)


# --- bash ---------------------------------------------------------------------------------------------------

_BASH = r"""# Completion of gpen and gpenctl in bash, made from gpen's command table by
#   python -m gpen.docs.completion bash

_gpen_names="@names@"

@after@

# What the argument of option $1 is; fails for an option without one.
@gpen_value@

@gpenctl_value@

# Sets words and cur. COMP_WORDS would fall apart at each colon of an address.
_gpen_words() {
    local line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$line"
    [[ $line == *[[:blank:]] ]] && words+=("")
    cur=${words[${#words[@]} - 1]}
}

# Fills COMPREPLY with what begins with cur; $1 is a kind of value, or the words to choose from.
_gpen_reply() {
    local how=(-W "$1")
    case $1 in
        FILE) how=(-f) ;;
        DIR) how=(-d) ;;
        USER) how=(-u) ;;
        COMMAND) how=(-W "$_gpen_names") ;;
        LISTENER) how=(-W "$(_gpen_listeners "${words[0]}" "${words[target]/#\~\//$HOME/}")") ;;
    esac
    [[ $1 == FILE || $1 == DIR ]] && compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen "${how[@]}" -- "$cur")
}

_gpen() {
    local words cur wanted
    COMPREPLY=()
    _gpen_words
    if wanted=$(_gpen_value "${words[${#words[@]} - 2]}"); then
        _gpen_reply "$wanted"
    elif [[ $cur == -* ]]; then
        _gpen_reply "@gpen_options@"
    elif [[ $cur == [/.~]* ]]; then
        _gpen_reply FILE
    fi
}

_gpenctl() {
    local words cur last target wanted
    COMPREPLY=()
    _gpen_words
    last=$((${#words[@]} - 1))
    for ((target = 1; target < last; target++)); do
        [[ ${words[target]} == -* ]] || break
        _gpenctl_value "${words[target]}" >/dev/null && ((target++))
    done
    if ((target > last)); then
        _gpen_reply "$(_gpenctl_value "${words[last - 1]}")"
    elif ((target < last)); then
        _gpenctl_command "${words[@]:target + 1}"
    elif [[ $cur == --*=* ]] && wanted=$(_gpenctl_value "${cur%%=*}"); then
        cur=${cur#*=}
        _gpen_reply "$wanted"
    elif [[ $cur == -* ]]; then
        _gpen_reply "@gpenctl_options@"
    else
        _gpen_reply FILE
        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -G "/run/gpen/*.ctl" | grep -F -- "$cur")
    fi
}

# The words of a command, up to cur.
_gpenctl_command() {
    if (($# == 1)); then
        _gpen_reply "$_gpen_names @ctl_names@"
    elif [[ $1 == listener ]]; then
        _gpenctl_listener "${@:2}"
    elif [[ $1 != no ]]; then
        _gpen_reply "$(_gpen_after "$1" $(($# - 2)) "${words[${#words[@]} - 2]}")"
    elif (($# == 2)); then
        _gpen_reply "@negatable@"
    elif (($# == 3)) && [[ $2 == listener ]]; then
        _gpen_reply LISTENER
    fi
}

# The words behind listener, up to cur.
_gpenctl_listener() {
    if (($# == 1)); then
        _gpen_reply LISTENER
    elif (($# == 2)); then
        _gpen_reply "@scoped@ no"
    elif [[ $2 != no ]]; then
        _gpen_reply "$(_gpen_after_listener "$2" $(($# - 3)) "${words[${#words[@]} - 2]}")"
    elif (($# == 3)); then
        _gpen_reply "@scoped_negatable@"
    fi
}

complete -F _gpen gpen
complete -F _gpenctl gpenctl
"""


def bash() -> str:
    """The text of contrib/completion/gpen.bash: both commands, for bash 4 and later."""
    return fill(
        _BASH,
        after=_after(),
        names=_words(command.name for command in commands()),
        negatable=_negatable(commands()),
        scoped=_words(command.name for command in scoped_commands()),
        scoped_negatable=_negatable(scoped_commands()),
        ctl_names=_words(CTL_NAMES),
        gpen_options=_words(option.flag for option in options()),
        gpenctl_options=_words(option.flag for option in CTL_OPTIONS),
        gpen_value=_value_function("_gpen_value", options()),
        gpenctl_value=_value_function("_gpenctl_value", CTL_OPTIONS),
    )


def _negatable(commands: Iterable[Command]) -> str:
    return _words(command.name for command in commands if command.negatable)


def _words(words: Iterable[str]) -> str:
    return " ".join(words)


def _value_function(name: str, options: Iterable[Option]) -> str:
    flags: dict[str, list[str]] = {}
    for option in options:
        if option.argument:
            flags.setdefault(ARGUMENTS.get(option.argument) or _offer(option.argument), []).append(option.flag)
    cases = [f"        {' | '.join(group)}) {_echo(words)};;" for words, group in flags.items()]
    return "\n".join((f"{name}() {{", "    case $1 in", *cases, "        *) return 1 ;;", "    esac", "}"))


# --- zsh ----------------------------------------------------------------------------------------------------

_ZSH = r"""#compdef gpen gpenctl
# Completion of gpen and gpenctl in zsh, made from gpen's command table by
#   python -m gpen.docs.completion zsh

@after@

_gpen_names() {
    local -a names=(
@names@
    )
    _describe command names
}

# Offers a kind of value, or the words to choose from.
_gpen_reply() {
    case $1 in
        FILE) _files ;;
        DIR) _files -/ ;;
        USER) _users ;;
        COMMAND) _gpen_names ;;
        LISTENER) compadd -- $(_gpen_listeners $gpenctl ${(Q)~line[1]}) ;;
        *) compadd -- ${=1} ;;
    esac
}

# The words of a command, which begin at $words[1].
_gpen_command() {
    local -a own=(
@ctl_names@
    )
    if ((CURRENT == 1)); then
        _gpen_names
        _describe command own
    elif [[ $words[1] == listener ]]; then
        _gpen_listener
    elif [[ $words[1] != no ]]; then
        _gpen_reply "$(_gpen_after "$words[1]" $((CURRENT - 2)) "$words[CURRENT-1]")"
    elif ((CURRENT == 2)); then
        compadd -- @negatable@
    elif ((CURRENT == 3)) && [[ $words[2] == listener ]]; then
        _gpen_reply LISTENER
    fi
}

# What may stand behind listener, which is $words[1].
_gpen_listener() {
    if ((CURRENT == 2)); then
        _gpen_reply LISTENER
    elif ((CURRENT == 3)); then
        compadd -- @scoped@ no
    elif [[ $words[3] != no ]]; then
        _gpen_reply "$(_gpen_after_listener "$words[3]" $((CURRENT - 4)) "$words[CURRENT-1]")"
    elif ((CURRENT == 4)); then
        compadd -- @scoped_negatable@
    fi
}

_gpen_target() {
    local -a sockets=(/run/gpen/*.ctl(N))
    compadd -a sockets
    _files
}

case $service in
    gpen)
        _arguments -s \
@gpen_options@
            ':listen:_files' '*:server:()'
        ;;
    gpenctl)
        local gpenctl=${(Q)~words[1]}
        _arguments \
@gpenctl_options@
            ':target:_gpen_target' '*:::command:_gpen_command'
        ;;
esac
"""


def zsh() -> str:
    """The text of contrib/completion/_gpen: both commands, with descriptions."""
    return fill(
        _ZSH,
        after=_after(),
        names="\n".join(described(command.name, command.help) for command in commands()),
        ctl_names="\n".join(described(*row) for row in CTL_NAMES.items()),
        negatable=_negatable(commands()),
        scoped=_words(command.name for command in scoped_commands()),
        scoped_negatable=_negatable(scoped_commands()),
        gpen_options="\n".join(map(specification, options())),
        gpenctl_options="\n".join(map(specification, CTL_OPTIONS)),
    )


def described(name: str, help: str, indent: int = 8) -> str:
    """A name and what it does, as a line for zsh's _describe."""
    return " " * indent + _quoted(f"{name}:{brief(help)}")


def specification(option: Option, indent: int = 12) -> str:
    """The option as a line for zsh's _arguments."""
    long = option.flag.startswith("--")
    text = f"*{option.flag}"
    if option.argument:
        text += "=" if long else "+"
    text += "[" + re.sub(r"([][\\])", r"\\\1", brief(option.help)) + "]"
    if option.argument:
        text += f":{option.argument.replace(':', chr(92) + ':')}:{_action(option.argument)}"
    return f"{' ' * indent}{_quoted(text)} \\"


def _action(argument: str) -> str:
    words = ARGUMENTS.get(argument, "")
    known = {"FILE": "_files", "DIR": "_files -/", "USER": "_users", "COMMAND": "_gpen_names", "": " "}
    return known.get(words, f"({words})")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"


if __name__ == "__main__":
    sys.stdout.write({"bash": bash, "zsh": zsh}[sys.argv[1]]())
