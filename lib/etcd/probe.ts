/** What this user may do in etcd, and what etcd takes, found out without a write. */
import { Buffer } from "node:buffer";
import type { EtcdClient } from "./client.ts";
import { EtcdError, STATUS } from "./error.ts";
import { isFuture, readRange } from "./kv.ts";

/**
 * Throws as the read of these keys would where it is not permitted. etcd checks the rights, then the revision (3.4 to 3.7:
 * etcdserver/v3_server.go, doSerialize), and only then counts the keys, however few are asked for; and this one never comes.
 * @throws {EtcdError}
 */
export async function probeRead(client: EtcdClient, from: Uint8Array, to: Uint8Array): Promise<void> {
  try {
    await readRange(client, from, to, 1, Number.MAX_SAFE_INTEGER);
  } catch (error) {
    if (!isFuture(error)) throw error;
  }
}

/**
 * Throws as the write of these keys would where it is not permitted. etcd checks the number of operations, then the
 * rights to all that a transaction names, then the compares (3.4 to 3.7: v3rpc/key.go, apply_auth.go); and this one's can
 * never hold. Were they to hold all the same, a put that leaves value and lease as they are would change no content,
 * and create no key.
 * @throws {EtcdError}
 */
export async function probeWrite(client: EtcdClient, keys: Uint8Array[]): Promise<void> {
  await client.ask("KV", "Txn", {
    // no version is below 0
    compare: [{ result: "Less", target: "Version", key: Buffer.from(keys[0]), version: -1 }],
    success: keys.map((key) => ({
      request_put: { key: Buffer.from(key), ignore_value: true, ignore_lease: true },
    })),
    failure: [],
  });
}

/** etcd's rpctypes; its code is shared with other errors. */
const TOO_MANY = "etcdserver: too many operations in txn request";

/** The limits were passed, and then the rights were missing. 3.4 asks for a user as late as that. */
const REFUSED = new Set<number>([STATUS.PERMISSION_DENIED, STATUS.UNAUTHENTICATED]);

/** The most operations, up to `wanted`, that etcd takes in one transaction. Rights are checked after their number. */
export async function probeOperations(client: EtcdClient, key: Uint8Array, wanted: number): Promise<number> {
  let [taken, refused] = [0, wanted + 1];
  for (let next = wanted; taken + 1 < refused; next = Math.floor((taken + refused) / 2)) {
    if (await takes(client, key, next)) taken = next;
    else refused = next;
  }
  return taken;
}

async function takes(client: EtcdClient, key: Uint8Array, operations: number): Promise<boolean> {
  try {
    const end = (i: number) => new TextEncoder().encode(`#${i}`);
    const keys = Array.from({ length: operations }, (_, i) => Buffer.concat([key, end(i)]));
    await probeWrite(client, keys);
    return true;
  } catch (error) {
    if (!(error instanceof EtcdError)) throw error;
    if (error.message === TOO_MANY) return false;
    if (REFUSED.has(error.code)) return true;
    throw error;
  }
}

/** What etcd lets through above --max-request-bytes, for grpc's framing (3.4 to 3.7: v3rpc/grpc.go, grpcOverheadBytes). */
const OVERHEAD_BYTES = 512 * 1024;

/** Whether etcd's --max-request-bytes is at least so much: by the size of a read of one long key, on this server alone. */
export async function probeRequestBytes(client: EtcdClient, bytes: number): Promise<boolean> {
  try {
    await client.ask("KV", "Range", {
      key: Buffer.alloc(bytes + OVERHEAD_BYTES - 64), // the rest of the message
      serializable: true,
      count_only: true,
    });
    return true;
  } catch (error) {
    if (!(error instanceof EtcdError)) throw error;
    if (error.code === STATUS.RESOURCE_EXHAUSTED) return false;
    if (REFUSED.has(error.code)) return true;
    throw error;
  }
}

/** The roles of a user, which each user may ask of itself; none where there are no users. */
export async function rolesOf(client: EtcdClient, user: string): Promise<string[]> {
  try {
    return (await client.ask<{ roles: string[] }>("Auth", "UserGet", { name: user })).roles;
  } catch (error) {
    if (error instanceof EtcdError) return [];
    throw error;
  }
}
