#!/bin/sh
# etcd.sh PREFIX PASSWORD [STREAM]: the user `etcd-pg-sync`, who may read and write the keys under PREFIX and the marker of the
# stream (`default` if not named), and nothing more. With READ_ONLY=1, for `--one-way`, PREFIX may only be read, and there is no
# marker. etcdctl is told by its variables where etcd is, and who is root: ETCDCTL_ENDPOINTS, ETCDCTL_USER, ETCDCTL_PASSWORD …
set -eu
[ $# -ge 2 ] || { echo "usage: etcd.sh PREFIX PASSWORD [STREAM]" >&2; exit 1; }
prefix=$1 password=$2 stream=${3:-default}
etcdctl role add etcd-pg-sync
if [ "${READ_ONLY:-}" ]; then
  etcdctl role grant-permission etcd-pg-sync read --prefix=true "$prefix"
else
  etcdctl role grant-permission etcd-pg-sync readwrite --prefix=true "$prefix"
  etcdctl role grant-permission etcd-pg-sync readwrite "/_etcd-pg-sync/$stream"
fi
printf %s "$password" | etcdctl user add etcd-pg-sync --interactive=false
etcdctl user grant-role etcd-pg-sync etcd-pg-sync
