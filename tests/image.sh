#!/usr/bin/env bash
# compose.yaml and the image that it builds, on the container engine of DOCKER_HOST: it comes up healthy, the image is below
# 200 MB, runs as another user than root on a root that is read-only, writes both ways, and ends within 5 s of SIGTERM, when the
# standby goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
export COMPOSE_PROJECT_NAME=etcd-pg-sync-test
compose() { if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi; }
fail() { echo "failed: $1" >&2; compose logs --tail 20 >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: wanted '$3', got '$2'"; } # what, got, wanted
inspect() { docker inspect --format "$2" "$1"; }
trap 'compose down -v >/dev/null 2>&1' EXIT

compose up -d --build >/dev/null
sync=$(compose ps -q sync)
for _ in $(seq 120); do
  health=$(inspect "$sync" '{{.State.Health.Status}}')
  [ "$health" = starting ] || break
  sleep 0.5
done
is "health" "$health" healthy
image=$(inspect "$sync" '{{.Image}}')
bytes=$(inspect "$image" '{{.Size}}')
echo "image: $((bytes / 1000000)) MB"
[ "$bytes" -lt 200000000 ] || fail "the image has $bytes bytes"
is "user" "$(inspect "$sync" '{{.Config.User}}')" 65532:65532
is "read-only" "$(inspect "$sync" '{{.HostConfig.ReadonlyRootfs}}')" true
compose exec -T etcd etcdctl put /image down >/dev/null
sql() { compose exec -T -e PGPASSWORD=postgres postgres psql -h 127.0.0.1 -U postgres -qAt; }
for _ in $(seq 50); do
  seen=$(echo "select value from etcd where key = '/image'" | sql)
  [ "$seen" = "" ] || break
  sleep 0.1
done
is "from etcd" "$seen" down
is "from SQL" "$(printf 'select etcd_set($$/image$$, $$up$$) as ticket \\gset\nselect status from etcd_wait(:ticket);\n' | sql)" success
is "in etcd" "$(compose exec -T etcd etcdctl get /image --print-value-only)" up
docker stop --time 5 "$sync" >/dev/null # SIGKILL after that, which would be 137
is "exit code" "$(inspect "$sync" '{{.State.ExitCode}}')" 0
is "from SQL, by the standby" "$(printf 'select etcd_set($$/image$$, $$on$$) as ticket \\gset\nselect status from etcd_wait(:ticket);\n' | sql)" success
echo "image: ok"
