_lt_sweeps() {
    local line=${COMP_LINE:0:COMP_POINT} command=("$1") word found=() one
    COMPREPLY=()
    if [[ ${1##*/} == python* ]]; then
        [[ ${COMP_WORDS[1]} == -m && ${COMP_WORDS[2]} == lt_sweeps && COMP_CWORD -gt 2 ]] || return
        command+=(-m lt_sweeps)
    fi
    mapfile -t found < <(COMP_LINE=$line "${command[@]/#\~/$HOME}" -sc query=bash 2>/dev/null)
    word=${COMP_WORDS[COMP_CWORD]}
    for one in "${found[@]}"; do
        # Bash splits the word at "=" and completes only the part after it.
        [[ ${line##*[[:space:]]} == *=* && $COMP_WORDBREAKS == *=* ]] && one=${one#*=}
        [[ $one == *' '* && $word != [\"\']* ]] && printf -v one %q "$one"
        COMPREPLY+=("$one")
    done
    [[ ${#COMPREPLY[@]} -ne 1 || $COMPREPLY == *[=.] ]] && compopt -o nospace
}
complete -o bashdefault -o default -F _lt_sweeps lt-sweeps python python3
