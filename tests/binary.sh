#!/usr/bin/env bash
# The tests of tests/flow that start the program, on the compiled binary: `bash tests/binary.sh build/etcd-pg-sync`, all of
# them; with `--short` the few that CI runs.
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/.."
deno=${DENO:-deno}
# Those that start no program, and those of servers that only the sources can start
left_out="embedded readme world"
files=""
if [ "${2:-}" = --short ]; then
  files="tests/flow/binary_test.ts tests/flow/systemd_test.ts tests/fault/etcd_tls_test.ts"
else
  for file in tests/flow/*_test.ts; do
    name=$(basename "$file" _test.ts)
    [[ " $left_out " == *" $name "* ]] || files+=" $file"
  done
fi
ETCD_PG_SYNC_TEST_BINARY=$binary $deno task test $files
