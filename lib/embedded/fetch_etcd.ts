/** etcd from Debian's packages: downloaded with apt and unpacked into the cache, not installed. */

import { join } from "node:path";
import { fillFolder, run } from "./fetch.ts";
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
  await fillFolder(folder, (fresh) => unpack(apt, dpkg, fresh));
  return etcd;
}

async function unpack(apt: string, dpkg: string, folder: string): Promise<void> {
  const why = await download(apt, folder);
  if (why) throw new Error(`Cannot start embedded etcd: 'apt-get download' said '${why}', ${advice}`);
  const packages = [...Deno.readDirSync(folder)].filter(({ name }) => name.endsWith(".deb"));
  for (const { name } of packages) {
    const why = await run(dpkg, ["-x", name, "."], folder);
    if (why) throw new Error(`Cannot start embedded etcd: 'dpkg -x ${name}' said '${why}', ${advice}`);
    await Deno.remove(join(folder, name));
  }
}

/** apt's lists may be missing or too old to name a file that is still there: then, and only then, fetch them. */
async function download(apt: string, folder: string): Promise<string | undefined> {
  const sandbox = Deno.uid() === 0 ? ["-o", "APT::Sandbox::User=root"] : [];
  const args = [...sandbox, "download", "etcd-server", "etcd-client"];
  const why = await run(apt, args, folder);
  if (!why) return undefined;
  const noLists = await run(apt, [...sandbox, "update"], folder);
  return noLists ? why : await run(apt, args, folder);
}
