# Every test of every suite in a process of its own, one after the other; a line for each, and all that a failed one said.
# Beside this file: `chosen` has how a "SUITE TEST" that runs begins, nothing where all do; `left-out` how one that is left out begins,
# one per line; `limit` the seconds that a test has.
top=$(cd "${0%/*}" && pwd)
export IMDS_GUARD_BIN_DIR="$top/bin" RUST_BACKTRACE=1
# An emulated processor: see tests/harness/scale.rs.
export IMDS_GUARD_SCALE=20 IMDS_GUARD_PATIENCE=6 IMDS_GUARD_KEY=/tmp/common-key.json
read -r limit <"$top/limit"

now() { # hundredths of a second
    read -r up _ </proc/uptime
    echo "${up%.*}${up#*.}"
}

echo "VM booted $(now)"

begins_in() { # FILE "SUITE TEST"
    while read -r begins; do
        case "$2" in "$begins"*) return 0 ;; esac
    done <"$1"
    return 1
}

passes() { # SUITE-FILE TEST WHICH; leaves what it said in /tmp/said, and $code
    timeout -k 5 "$limit" "$1" --exact "$2" "$3" --test-threads=1 </dev/null >/tmp/said 2>&1
    code=$?
    [ $code = 0 ] && ! grep -q '^test result: ok. 1 passed' /tmp/said && code=none-ran
    [ "$code" = 0 ]
}

each() { # SUITE-FILE WHICH: `--include-ignored` or `--ignored`
    suite=${1##*/}
    which=$([ "$2" = --ignored ] && echo --ignored)
    "$1" --list --format terse $which | sed -n 's/: test$//p' >/tmp/list
    while read -r name <&3; do
        if [ -s "$top/chosen" ] && ! begins_in "$top/chosen" "$suite $name"; then
            continue
        fi
        if begins_in "$top/left-out" "$suite $name"; then
            echo "VM left-out $suite $name"
            continue
        fi
        begun=$(now)
        # Once more, where it fails: this processor stops for as long as the host has something else to do. It is told.
        if ! passes "$1" "$name" "$2"; then
            echo "VM again $suite $name ($code)"
            sed 's/^/VM | /' /tmp/said
            passes "$1" "$name" "$2"
        fi
        took=$(($(now) - begun))
        if [ "$code" = 0 ]; then
            echo "VM passed $suite $name $took"
        else
            echo "VM failed $suite $name $took ($code)"
            sed 's/^/VM | /' /tmp/said
            dmesg | tail -n 3 | sed 's/^/VM | dmesg: /'
        fi
    done 3</tmp/list
}

for file in "$top"/suites/*; do [ -f "$file" ] && each "$file" --include-ignored; done
for file in "$top"/own/*; do [ -f "$file" ] && each "$file" --ignored; done
echo "VM end $(now)"
