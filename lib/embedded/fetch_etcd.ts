/** etcd from Debian's packages, unpacked into the cache. */

import { join } from "node:path";
import { fillFolder } from "./fetch.ts";
import { unpackDebian } from "./fetch_debian.ts";
import { isFile, type Log, onPath, type Search } from "./search.ts";

const advice = "install etcd 3.4 or newer, put it on PATH or name the binary in ETCD_PG_SYNC_ETCD";

export async function fetchEtcd(search: Search, log: Log): Promise<string> {
  const folder = join(search.cache, "etcd-debian");
  const etcd = join(folder, "usr/bin/etcd");
  if (await isFile(etcd)) return etcd;
  const apt = await onPath("apt-get", search.path);
  const dpkg = await onPath("dpkg", search.path);
  if (!apt || !dpkg) throw new Error(`Cannot start embedded etcd: no etcd found, ${advice}`);
  log.info({ folder }, "no etcd found on PATH: fetching Debian's etcd-server and etcd-client into the cache");
  await fillFolder(folder, async (fresh) => {
    const why = await unpackDebian({ apt, dpkg }, ["etcd-server", "etcd-client"], fresh);
    if (why) throw new Error(`Cannot start embedded etcd: ${why}, ${advice}`);
  });
  return etcd;
}
