function __lt_sweeps
    set -l words (commandline -opc)
    set -l command $words[1]
    string match -q '*python*' $command; and set command $words[1..3]
    set -l found (COMP_LINE=(commandline -cp) $command -sc query=fish 2>/dev/null)
    set -l key (string match -r '^.*=' -- (commandline -ct); or echo)
    set -l file (string replace -r '^.*=' '' -- (commandline -ct))
    test -z "$found"; and set found $key(__fish_complete_path $file)
    string join \n -- $found
end
function __lt_sweeps_module
    set -l words (commandline -opc)
    test (count $words) -ge 3; and test "$words[2] $words[3]" = '-m lt_sweeps'
end
complete -c lt-sweeps -f -a '(__lt_sweeps)'
complete -c python -n __lt_sweeps_module -f -a '(__lt_sweeps)'
complete -c python3 -n __lt_sweeps_module -f -a '(__lt_sweeps)'
