/** Which user the servers run as, and whether that user can reach a folder. PostgreSQL refuses to run as root. */

import { dirname, resolve } from "node:path";

export interface Account {
  name: string;
  uid: number;
  gid: number;
}

/** As root: `postgres` if there is such a user, else `nobody`. As anybody else: undefined, nothing to change. */
export function serverAccount(): Account | undefined {
  if (Deno.uid() !== 0) return undefined;
  const passwd = Deno.readTextFileSync("/etc/passwd").split("\n").map((line) => line.split(":"));
  for (const name of ["postgres", "nobody"]) {
    const entry = passwd.find((fields) => fields[0] === name);
    if (entry) return { name, uid: Number(entry[2]), gid: Number(entry[3]) };
  }
  throw new Error(
    "Cannot start embedded postgres: it refuses to run as root, and there is no user 'postgres' or 'nobody'",
  );
}

/**
 * Makes `dir` and what is missing above it, and gives `dir` to the account.
 *
 * A folder above that the account may not enter (such as root's own home) is refused, not opened: who may enter it
 * is its owner's decision.
 */
export async function makeOwned(dir: string, account: Account | undefined): Promise<void> {
  await Deno.mkdir(dir, { recursive: true, mode: 0o755 });
  if (!account) return;
  const closed = await closedFolder(dirname(resolve(dir)), account);
  if (closed) {
    throw new Error(
      `Cannot start embedded postgres: user '${account.name}' may not enter '${closed}', wanted a folder all users can enter`,
    );
  }
  await Deno.chown(dir, account.uid, account.gid);
}

/** The first folder from `dir` upwards that the account may not enter. */
export async function closedFolder(dir: string, account: Account): Promise<string | undefined> {
  for (let at = await Deno.realPath(dir);; at = dirname(at)) {
    const { mode, uid, gid } = await Deno.stat(at);
    const bit = uid === account.uid ? 0o100 : gid === account.gid ? 0o010 : 0o001;
    if (mode !== null && (mode & bit) === 0) return at;
    if (at === dirname(at)) return undefined;
  }
}
