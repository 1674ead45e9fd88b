# For the demo's scripts: `run WANTED COMMAND...` shows a command, runs it, and insists on the exit status that it must have.
root=$(cd ../.. && pwd)

run() {
    local wanted=$1 status=0
    shift
    printf '\n$ %s\n' "${*//$root\//}"
    "$@" || status=$?
    printf '[exit status %d]\n' "$status"
    if [ "$status" -ne "$wanted" ]; then
        printf 'demo: that should have been %d\n' "$wanted" >&2
        exit 1
    fi
}
