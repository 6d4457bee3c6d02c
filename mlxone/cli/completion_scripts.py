"""What a shell has to know: how to ask the program (`completing.py`) what could stand at the cursor.

Each script starts the `mlxone` that stands on the line, whichever that is, and shows none of its
complaints. Words with a colon, an equals sign or an @ are whole for us; bash takes them apart and puts
what its script answers into the line as it is: so the script reads the line itself, answers with what is
behind the last of these, and writes a name in such a way that the shell runs nothing in it.
"""

from __future__ import annotations

BASH = r"""# Completion of mlxone for bash, 3.2 or later.

# Takes the text $1 apart as the shell would: adds to `words`, of which `n` is the last one and `begun`
# says whether it has begun, and leaves in `quote` the quote that is open at the end.
_mlxone_read() {
    local i c
    for (( i = 0; i < ${#1}; i++ )); do
        c=${1:i:1}
        case $quote$c in
            [[:space:]]) [[ -n $begun ]] && n=$((n + 1)); begun=; continue ;;
            \'\' | \"\") quote= ;;
            \'?) words[n]+=$c ;;
            \\ | \"\\)
                i=$((i + 1)) c=${1:i:1}
                [[ $quote$c == \"[!\\\"\$\`] ]] && words[n]+=\\
                words[n]+=$c ;;
            \' | \") quote=$c ;;
            *) words[n]+=$c ;;
        esac
        begun=1
    done
    words[n]+=
}

# Writes $1 into `text` so that behind the quote $2, or none, the shell reads $1 and runs nothing in it.
_mlxone_write() {
    local i c
    [[ -z $2 ]] && printf -v text %q "$1" && return
    text=
    for (( i = 0; i < ${#1}; i++ )); do
        c=${1:i:1}
        case $2$c in
            \"[\\\"\$\`]) text+=\\$c ;;
            \"!) text+="\"'!'\"" ;;  # a backslash would keep the history from it, and stay
            \'\') text+="'\\''" ;;
            *) text+=$c ;;
        esac
    done
}

_mlxone() {
    local line=${COMP_LINE:0:COMP_POINT} words=() n=0 begun= quote= head open
    local kind= text about answer
    # Readline replaces $2 alone: `head` is what stands before it in the same word, with or without a quote.
    _mlxone_read "${line%"$2"}"
    head=${words[n]} open=$quote
    _mlxone_read "$2"
    words[0]=${words[0]/#\~/$HOME}

    COMPREPLY=()
    answer=$(_MLXONE_COMPLETE=bash "${words[@]}" 2>/dev/null)
    while IFS=$'\t' read -r text about; do
        if [[ -z $kind ]]; then
            kind=$text
        else
            _mlxone_write "${text#"$head"}" "$open"
            COMPREPLY+=("$text")
        fi
    done <<< "$answer"
    # Readline itself looks for files where there is no reply, unless told otherwise.
    [[ $kind == files ]] || compopt +o default 2>/dev/null
    [[ $kind == folders ]] && compopt -o dirnames 2>/dev/null
    return 0
}
complete -o default -F _mlxone mlxone
"""

ZSH = r"""#compdef mlxone
# Completion of mlxone for zsh.
_mlxone() {
    local line text about
    local -a asked answer candidates
    asked=(${(Q)~words[1]} "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}")
    answer=("${(@f)$(_MLXONE_COMPLETE=zsh "${(@)asked}" 2>/dev/null)}")
    case $answer[1] in
        files|folders)
            [[ $PREFIX == --*=* ]] && compset -P '*='
            if [[ $answer[1] == files ]]; then _files; else _files -/; fi
            ;;
        plain)
            for line in "${(@)answer[2,-1]}"; do
                text=${line%%$'\t'*} about=${line#*$'\t'}
                text=${${text//\\/\\\\}//:/\\:}
                candidates+=("$text${about:+:$about}")
            done
            _describe -V mlxone candidates
            ;;
    esac
}
if [[ $funcstack[1] == _mlxone ]]; then
    _mlxone "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _mlxone mlxone
fi
"""

FISH = r"""# Completion of mlxone for fish, 3.0 or later.
function __mlxone_complete
    # The word at the cursor as it is meant: without its quotes and backslashes.
    set -l current (string unescape -- (commandline -ct); or commandline -ct)
    set -l words (commandline -opc) "$current"
    set words[1] (string replace -r '^~' -- $HOME $words[1])
    set -l answer (env _MLXONE_COMPLETE=fish $words 2>/dev/null)
    set -l head (string match -r -- '^--[^=]*=' $current)
    set -l rest (string replace -r -- '^--[^=]*=' '' $current)
    switch "$answer[1]"
        case files
            printf "$head%s\n" (__fish_complete_path $rest)
        case folders
            printf "$head%s\n" (__fish_complete_directories $rest)
        case plain
            set -e answer[1]
            test (count $answer) -gt 0; and printf '%s\n' $answer
    end
end
complete -c mlxone -f -a '(__mlxone_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
