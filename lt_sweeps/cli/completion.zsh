autoload -Uz compinit && (( $+functions[compdef] )) || compinit
_lt_sweeps() {
    local -a command found ends
    command=($words[1])
    if [[ ${words[1]:t} == python* ]]; then
        if [[ $words[2] != -m || $words[3] != lt_sweeps ]] || (( CURRENT < 4 )); then
            (( $+functions[_python] )) && _python || _default
            return
        fi
        command+=(-m lt_sweeps)
    fi
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    found=(${(f)"$(COMP_LINE=$line $command -sc query=zsh 2>/dev/null)"})
    ends=(${(M)found:#*[=.]})
    found=(${found:#*[=.]})
    (( $#found + $#ends )) || { compset -P '*='; _files; return }
    compadd -S '' -a ends
    compadd -a found
}
compdef _lt_sweeps lt-sweeps python python3
