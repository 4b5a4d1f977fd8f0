"""Shell completion for the programs whose options stand in usage texts: gpen-galera, gpen-discover, gpenlog, gpenlogd.

Each has a file of its own for each shell, which needs no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gpen.control.commands import Option
from gpen.control.help import brief
from gpen.docs.completion import ARGUMENTS, described, fill, specification

_SECTION = re.compile(r"^Options:\n((?:(?: .*)?\n)*)", re.MULTILINE)
_OPTION = re.compile(r"^  (-\S.*?)(?:  +|\n +)(\S.*(?:\n {3,}\S.*)*)", re.MULTILINE)
_DEFAULT = re.compile(r"\s*\[default: [^]]*\]")
_FLAG = re.compile(r"(--?[\w-]+)(?:[= ]([A-Z]+))?")


@dataclass(frozen=True)
class Program:
    """One program: what makes its files, its own options, and its commands, if it has any, each with what it does and
    its options."""

    name: str
    made_by: str
    options: tuple[Option, ...]
    commands: Mapping[str, tuple[str, tuple[Option, ...]]]

    @property
    def function(self) -> str:
        """What its shell function is called."""
        return f"_{self.name.replace('-', '_')}"

    def rows(self) -> Iterator[tuple[str, Option]]:
        """Each option with the command that it is of; the program's own are of the empty one."""
        yield from (("", option) for option in self.options)
        for command, (_, options) in self.commands.items():
            yield from ((command, option) for option in options)


def options_of(usage: str) -> tuple[Option, ...]:
    """The options of a usage text: -h and --help are two."""
    section = _SECTION.search(usage)
    return tuple(Option(flag, argument, " ".join(_DEFAULT.sub("", text).split()))
                 for flags, text in _OPTION.findall(section[1] if section else "")
                 for flag, argument in _FLAG.findall(flags))


def with_commands(name: str, made_by: str, overview: str, usages: Mapping[str, str]) -> Program:
    """A program that has commands: its overview says what each does, and each has a usage of its own."""
    does = dict(re.findall(r"^  (\w+)   *(\S.*)$", overview, re.MULTILINE))
    return Program(name, made_by, options_of(overview),
                   {command: (does[command], options_of(usage)) for command, usage in usages.items()})


# --- bash -------------------------------------------------------------------------------------------------------------

_BASH = r"""# Completion of @name@ in bash, made from its usage text by
#   python -m @made_by@ bash

# What the argument of option $2 of command $1 is; fails for an option without one.
@function@_value() {
    case "$1 $2" in
@values@
        *) return 1 ;;
    esac
}

# The options of command $1.
@function@_options() {
    case $1 in
@options@
    esac
}

# COMP_WORDS would fall apart at each colon of an address.
@function@() {
    local line=${COMP_LINE:0:COMP_POINT} words cur command="" option how
    read -ra words <<<"$line"
    [[ $line == *[[:blank:]] ]] && words+=("")
    cur=${words[${#words[@]} - 1]} option=${words[${#words[@]} - 2]}
    COMPREPLY=()
@find_command@    if [[ $cur == --*=* ]]; then
        option=${cur%%=*} cur=${cur#*=}
    fi
    if how=$(@function@_value "$command" "$option"); then
        case $how in
            FILE) compopt -o filenames 2>/dev/null; how=(-f) ;;
            DIR) compopt -o filenames 2>/dev/null; how=(-d) ;;
            USER) how=(-u) ;;
            *) how=(-W "$how") ;;
        esac
    elif [[ $cur == -* ]]; then
        how=(-W "$(@function@_options "$command")")
    elif [[ ! $command ]]; then
        how=(-W "@commands@")
    else
        return
    fi
    mapfile -t COMPREPLY < <(compgen "${how[@]}" -- "$cur")
}

complete -F @function@ @name@
"""
_FIND_COMMAND = "    ((${#words[@]} > 2)) && command=${words[1]}\n"
_NO_COMMAND = '""'


def bash(program: Program) -> str:
    """The file for bash 4 and later."""
    values: dict[str, list[str]] = {}
    flags: dict[str, list[str]] = {}
    for command, option in program.rows():
        flags.setdefault(command, []).append(option.flag)
        if option.argument:
            values.setdefault(ARGUMENTS.get(option.argument, ""), []).append(f'"{command} {option.flag}"')
    return fill(
        _BASH, name=program.name, made_by=program.made_by, function=program.function,
        find_command=_FIND_COMMAND if program.commands else "", commands=" ".join(program.commands),
        values="\n".join(f"        {' | '.join(rows)}) echo \"{kind}\" ;;" for kind, rows in values.items()),
        options="\n".join(f'        {command or _NO_COMMAND}) echo "{" ".join(names)}" ;;'
                          for command, names in flags.items()))


# --- zsh --------------------------------------------------------------------------------------------------------------

_ZSH = r"""#compdef @name@
# Completion of @name@ in zsh, made from its usage text by
#   python -m @made_by@ zsh

"""
_ZSH_PLAIN = r"""_arguments \
@options@
    '*:argument:()'
"""
_ZSH_COMMANDS = r"""local context state state_descr line
typeset -A opt_args
local -a commands=(
@commands@
)

_arguments -C \
@options@
    '1:command:->command' '*::argument:->words'

case $state in
    command) _describe command commands ;;
    words)
        case $line[1] in
@cases@
        esac
        ;;
esac
"""


def zsh(program: Program) -> str:
    """The file for zsh, with descriptions."""
    options = "\n".join(specification(option, 4) for option in program.options)
    cases = "\n".join(f"            {command})\n                _arguments \\\n"
                      + "\n".join(specification(option, 20) for option in of_it)
                      + "\n                    '*:argument:()'\n                ;;"
                      for command, (_, of_it) in program.commands.items())
    commands = "\n".join(described(name, brief(does), 4) for name, (does, _) in program.commands.items())
    return fill(_ZSH + (_ZSH_COMMANDS if program.commands else _ZSH_PLAIN), name=program.name,
                made_by=program.made_by, options=options, commands=commands, cases=cases)
