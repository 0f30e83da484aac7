/** What `start --embedded` tells a newcomer. */
import type { Embedded } from "./embedded/embedded.ts";

export function firstSteps(servers: Embedded): string {
  const psql = servers.psql ?? "psql";
  const etcdctl = servers.etcdctl ?? "etcdctl";
  const endpoint = servers.etcdDsn.replace(/^etcd:\/\/|\/$/g, "");
  return `
PostgreSQL ${servers.postgresVersion}   ${servers.postgresDsn}
etcd ${servers.etcdVersion}   ${servers.etcdDsn}

Try, in another terminal:
  ETCDCTL_API=3 ${etcdctl} --endpoints ${endpoint} put /hello world
  ${psql} ${servers.postgresDsn} -c "select key, value, revision from etcd" -c "select etcd_set('/from', 'sql')"
  ETCDCTL_API=3 ${etcdctl} --endpoints ${endpoint} get --prefix /
`;
}
