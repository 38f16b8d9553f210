# What the scripts inside of the guests share: checks that are counted, and test suites of Rust.
passed=0
failed=0

# check NAME EXPECTED COMMAND...: the command's output (both streams) and exit code, as "output|code".
check() {
    name=$1
    expected=$2
    shift 2
    # Into a file: a pipe would stay open for as long as a container that has inherited it.
    timeout 60 "$@" > /tmp/check 2>&1 < /dev/null
    code=$?
    actual="$(cat /tmp/check)|$code"
    if [ "$actual" = "$expected" ]; then
        passed=$((passed + 1))
        echo "PASS $name"
    else
        failed=$((failed + 1))
        echo "FAIL $name"
        echo "  expected: $expected"
        echo "  actual:   $actual"
    fi
}

# The test programs in /suites, each with what it skips and fails.
suites() {
    export BRIG_SKIPS=/tmp/skips
    # On the disk: a tmpfs of this kernel cannot show its files with a container's owners.
    mkdir -p /var/lib/suites
    export TMPDIR=/var/lib/suites
    for suite in /suites/*; do
        [ -x "$suite" ] || continue
        began=$(date +%s)
        # Of the unit tests those that ask the kernel: the others only compute, which is slow here and the same everywhere.
        words=
        case $suite in *-units) words=cgroup ;; esac
        # A test that the whole suite waits for must not be waited for.
        (cd /tmp && timeout 600 "$suite" --test-threads=1 $words) > /tmp/said 2>&1
        code=$?
        good=$(grep -c '^test .* ok$\|^ok$' /tmp/said)
        bad=$(grep -c '^test .*FAILED$\|^FAILED$' /tmp/said)
        passed=$((passed + good))
        failed=$((failed + bad))
        echo "guest: suite ${suite##*/}: $good passed, $bad failed, exit code $code, in $(($(date +%s) - began)) s"
        if [ "$code" != 0 ]; then
            echo "FAIL suite ${suite##*/}"
            # What the failures say, and nothing of those that went well; the end of it, where it did not come to its end.
            grep -v '^test .* ok$' /tmp/said | head -400
            [ "$code" != 143 ] && [ "$code" != 124 ] || tail -3 /tmp/said
        fi
    done
    [ ! -s "$BRIG_SKIPS" ] || sort -u "$BRIG_SKIPS"
}
