/** Somebody on the etcd side: transactions of many keys, deletes, leases that run out. Connected directly. */
import type { Buffer } from "node:buffer";
import { EtcdDoor, type Op } from "../support/etcd.ts";
import { eventually, pause } from "../support/eventually.ts";
import type { Acknowledged } from "../support/validators.ts";
import { someValue, think, type Traffic } from "./traffic.ts";

const LEASE_SECONDS = 2;

export interface EtcdRecord {
  acknowledged: Acknowledged[];
  /** Calls that failed: they may have been carried out all the same. */
  errors: number;
}

/** Writes until the traffic ends; its leases are revoked then, so that all is quiet after it. */
export async function etcdClient(dsn: string, traffic: Traffic): Promise<EtcdRecord> {
  let door = new EtcdDoor(dsn);
  const record: EtcdRecord = { acknowledged: [], errors: 0 };
  const leases: string[] = [];
  for (let n = 0; traffic.going(); n++) {
    try {
      const revision = await write(door, traffic, n, leases);
      if (revision) record.acknowledged.push({ revision, at: Date.now() });
    } catch {
      record.errors++;
      await door[Symbol.asyncDispose]();
      door = new EtcdDoor(dsn);
      await pause(100);
    }
    await think(traffic.random);
    await pause(20);
  }
  for (const lease of leases) await eventually(() => revoked(door, lease), { timeoutMs: 60_000 });
  await door[Symbol.asyncDispose]();
  return record;
}

/** The revision, where it surely changed a key. */
async function write(door: EtcdDoor, traffic: Traffic, n: number, leases: string[]): Promise<number | null> {
  const { random, keys } = traffic;
  const hot = random.chance(0.15) ? keys.shared : keys.etcd;
  if (random.chance(0.08)) {
    const lease = await door.leaseGrant(LEASE_SECONDS);
    leases.push(lease);
    return await door.put(random.pick(hot), someValue(traffic, n), { lease });
  }
  if (random.chance(0.3)) return await door.put(random.pick(hot), someValue(traffic, n));
  if (random.chance(0.1)) {
    await door.delete(random.pick(hot));
    return null;
  }
  const ops = someKeys(traffic).map((key): Op =>
    random.chance(0.25) ? { delete: key } : { put: key, value: someValue(traffic, n) }
  );
  const revision = await door.txn(ops);
  return ops.some((op) => "put" in op) ? revision : null;
}

function someKeys({ random, keys }: Traffic): Buffer[] {
  if (random.chance(0.003)) return random.sample(keys.wide, random.integer(5, 40));
  if (random.chance(0.3)) return random.sample(keys.seldom, random.integer(5, 20));
  if (random.chance(0.1)) return [...random.sample(keys.etcd, 3), ...random.sample(keys.shared, 2)];
  return random.sample(keys.etcd, random.integer(1, 6));
}

async function revoked(door: EtcdDoor, lease: string): Promise<boolean> {
  try {
    await door.leaseRevoke(lease);
  } catch (error) {
    if (!/lease not found/.test((error as Error).message)) throw error;
  }
  return true;
}
