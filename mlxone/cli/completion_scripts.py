"""What a shell has to know: how to ask the program (`completing.py`) what could stand at the cursor.

Each script starts the `mlxone` that stands on the line, whichever that is, and shows none of its
complaints. Words with a colon, an equals sign or an @ are whole for us; bash takes them apart, so
its script puts them together and answers with what is behind the last of these.
"""

from __future__ import annotations

BASH = r"""# Completion of mlxone for bash, 3.2 or later.
_mlxone() {
    local word mark kind= text about n head= breaks= quote= answer
    local words=("${COMP_WORDS[0]/#\~/$HOME}")
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        n=${#words[@]}
        if [[ -z $word && -n $COMP_LINE && ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]]; then
            words+=("")
        elif (( n > 1 )) && [[ $word == [:=@]* || ${words[n-1]} == *[:=@] ]]; then
            words[n-1]+=$word
        else
            words+=("$word")
        fi
    done
    n=$(( ${#words[@]} - 1 ))
    [[ ${words[n]} == [\'\"]* ]] && quote=${words[n]:0:1} && words[n]=${words[n]:1}
    for mark in : = @; do
        [[ $COMP_WORDBREAKS == *$mark* ]] && breaks+=$mark
    done
    [[ -n $breaks && -z $quote ]] && head=${words[n]%"${words[n]##*[$breaks]}"}

    COMPREPLY=()
    answer=$(_MLXONE_COMPLETE=bash "${words[@]}" 2>/dev/null)
    while IFS=$'\t' read -r text about; do
        if [[ -z $kind ]]; then
            kind=$text
        else
            text=${text#"$head"}
            [[ -n $quote ]] || printf -v text %q "$text"
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
    set -l current (commandline -ct)
    set -l words (commandline -opc) (string trim -l -c '"\'' -- "$current")
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
