#!/bin/sh
# A competitor: inotifywait tells of each input, and a Python runs it.
#
# shell_loop.sh PYTHON ONE_JOB MODULE_DIR SHARED_DIR
cd "$4" || exit
inotifywait --quiet --monitor --event moved_to --event close_write --format %f . |
while read -r name; do
    case $name in
    input*.json)
        stem=result${name#input}
        "$1" "$2" "$3" "$name" "${stem%.json}" &
        ;;
    esac
done
