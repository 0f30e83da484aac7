#!/usr/bin/env bash
# A round trip on the standalone binary: `start --embedded`, etcd → SQL and SQL → etcd, and nothing left behind.
set -euo pipefail
binary=$(realpath "$1")
work=$(mktemp -d)
cd "$work"
"$binary" --version
"$binary" start --embedded --log-format json >out 2>err &
program=$!
finish() {
  kill -TERM $program 2>/dev/null || true
  wait $program 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

waitfor() { # seconds, command: until it succeeds
  for _ in $(seq $(($1 * 10))); do
    if eval "$2" >/dev/null 2>&1; then return 0; fi
    if ! kill -0 $program 2>/dev/null; then break; fi
    sleep 0.1
  done
  echo "failed: $2" >&2
  cat out err >&2
  return 1
}

waitfor 120 'grep -q "\"to\":\"streaming\"" err'
eval "$(grep export out)"
etcdctl put /hello world
waitfor 10 '[ "$(psql "$PG" -Atc "select value from etcd where key = '"'/hello'"'")" = world ]'
psql "$PG" -Atc "select etcd_set('/from', 'sql')"
waitfor 10 '[ "$(etcdctl get --print-value-only /from)" = sql ]'
kill -TERM $program
wait $program
echo "binary: round trip ok"
