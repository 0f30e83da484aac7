#!/usr/bin/env bash
# package.sh DEB: installs the Debian package on this machine, configures and runs it, removes and purges it. As root, on a
# machine that is to be thrown away. The servers are those of ETCD_PG_SYNC_TEST_POSTGRES and ETCD_PG_SYNC_TEST_ETCD; psql has to
# be there. Where systemd runs, it runs the service; else the unit's ExecStart is run as the unit's user.
set -euo pipefail
deb=$(realpath "$1")
: "${ETCD_PG_SYNC_TEST_POSTGRES:?}" "${ETCD_PG_SYNC_TEST_ETCD:?}"
export PGOPTIONS="-c client_min_messages=warning"
config=/etc/etcd-pg-sync/config.yaml
unit=/lib/systemd/system/etcd-pg-sync.service
step() { echo "package: $1"; }
fail() { echo "failed: $1" >&2; [ ! -f /tmp/package.log ] || tail /tmp/package.log >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: wanted '$3', got '$2'"; } # what, got, wanted
waitfor() { # seconds, command: until it succeeds
  for _ in $(seq $(($1 * 10))); do if eval "$2" >/dev/null 2>&1; then return 0; fi; sleep 0.1; done
  fail "$2"
}
with_systemd() { [ -d /run/systemd/system ]; }
status() { etcd-pg-sync status --config $config; }

step "installs; nothing runs before it is configured"
dpkg -i "$deb" >/dev/null
is "mode of the settings" "$(stat -c '%U:%G %a' $config)" "root:etcd-pg-sync 640"
is "mode of the secrets" "$(stat -c '%U:%G %a' /etc/etcd-pg-sync/secrets)" "root:root 700"
is "processes" "$(find /proc/[0-9]*/exe -lname /usr/bin/etcd-pg-sync 2>/dev/null)" ""
is "exit code without settings" "$(runuser -u etcd-pg-sync -- etcd-pg-sync config check --config $config >/dev/null 2>&1; echo $?)" 1
etcd-pg-sync --version
zcat /usr/share/man/man1/etcd-pg-sync.1.gz | grep -q 'SH EXIT STATUS' || fail "manual page"
bash -uc '. /usr/share/bash-completion/completions/etcd-pg-sync; complete -p etcd-pg-sync' >/dev/null || fail "completion"
for file in fish/vendor_completions.d/etcd-pg-sync.fish zsh/vendor-completions/_etcd-pg-sync; do
  grep -q max-txn-ops "/usr/share/$file" || fail "completion: $file"
done
if with_systemd; then is "enabled" "$(systemctl is-enabled etcd-pg-sync || true)" disabled; fi

step "runs as the unit's user, with a DSN that root alone may read"
psql -q "$ETCD_PG_SYNC_TEST_POSTGRES" -c 'drop schema if exists package cascade'
if with_systemd; then
  (umask 077; echo "$ETCD_PG_SYNC_TEST_POSTGRES" >/etc/etcd-pg-sync/secrets/postgres-dsn)
  dsn='postgres-dsn-file: /run/credentials/etcd-pg-sync.service/secret_postgres-dsn'
else
  dsn="postgres-dsn: $ETCD_PG_SYNC_TEST_POSTGRES"
fi
printf '%s\netcd-dsn: %spackage/\nschema: package\nstream: package-%s\n' "$dsn" "$ETCD_PG_SYNC_TEST_ETCD" $$ >$config
if with_systemd; then
  systemctl enable --now etcd-pg-sync || { journalctl -u etcd-pg-sync --no-pager | tail -20 >&2; fail "start"; }
  is "state when 'start' is over" "$(systemctl is-active etcd-pg-sync)" active
  waitfor 10 'systemctl show -P StatusText etcd-pg-sync | grep -q "^leader: fresh"'
  systemctl reload etcd-pg-sync
  waitfor 10 'journalctl -u etcd-pg-sync --no-pager | grep -q "settings were read again"'
  systemctl restart etcd-pg-sync
  pid=$(systemctl show -P MainPID etcd-pg-sync)
else
  command=$(sed -n 's/^ExecStart=//p' $unit)
  user=$(sed -n 's/^User=//p' $unit)
  setpriv --reuid="$user" --regid="$user" --init-groups --no-new-privs --bounding-set=-all $command >/tmp/package.log 2>&1 &
  pid=$!
fi
waitfor 20 status
is "user" "$(stat -c %U "/proc/$pid")" etcd-pg-sync
written=$(psql -qAt "$ETCD_PG_SYNC_TEST_POSTGRES" <<'SQL'
set search_path to package;
select etcd_set('/package/a', '1') as ticket \gset
select status from etcd_wait(:ticket);
SQL
)
is "write from SQL" "$written" success

step "stops, and is removed"
if with_systemd; then
  dpkg -i "$deb" >/dev/null # an upgrade: what runs goes on, with the new binary
  [ "$(systemctl show -P MainPID etcd-pg-sync)" != "$pid" ] || fail "it was not started again by an upgrade"
  is "state after an upgrade" "$(systemctl is-active etcd-pg-sync)" active
  pid=$(systemctl show -P MainPID etcd-pg-sync)
else
  kill -TERM "$pid"
  wait "$pid" || fail "exit code $?"
fi
dpkg -r etcd-pg-sync >/dev/null
! kill -0 "$pid" 2>/dev/null || fail "it runs on"
[ -f $config ] || fail "the settings are gone before a purge"
dpkg -P etcd-pg-sync >/dev/null
[ ! -e /etc/etcd-pg-sync ] || fail "settings are left after a purge"
rm -f /tmp/package.log
psql -q "$ETCD_PG_SYNC_TEST_POSTGRES" -c 'drop schema package cascade'
echo "package: ok"
