/** What `start --embedded` tells a newcomer. */
import { dirname } from "node:path";
import type { Embedded } from "./embedded/embedded.ts";

/** Both DSNs, and commands that can be pasted as they are. */
export function firstSteps(servers: Embedded): string {
  const endpoint = servers.etcdDsn.replace(/^etcd:\/\/|\/$/g, "");
  const folders = new Set(
    [servers.psql, servers.etcdctl].filter((path) => path !== undefined).map((path) => dirname(path)),
  );
  return `
PostgreSQL ${servers.postgresVersion}   ${servers.postgresDsn}
etcd ${servers.etcdVersion}   ${servers.etcdDsn}

In another terminal:
  export PG='${servers.postgresDsn}' ETCDCTL_ENDPOINTS=${endpoint} PATH="$PATH:${[...folders].join(":")}"

  etcdctl put /hello world
  psql "$PG" -c "select key, value, revision from etcd" -c "select etcd_set('/from', 'sql')"
  etcdctl get /from
`;
}
