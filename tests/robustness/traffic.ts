/** What both kinds of clients share: the keys, and when to end. */
import { Buffer } from "node:buffer";
import { pause } from "../support/eventually.ts";
import type { Random } from "../support/random.ts";
import { nastyKeys } from "../support/samples.ts";

export interface Keys {
  /** Written from both sides, all the time: conflicts. */
  shared: Buffer[];
  /** Written by one side only: they arrive. */
  sql: Buffer[];
  etcd: Buffer[];
  /** Written by the etcd side only, and each so seldom that what a scan makes of it is still there at its end. */
  seldom: Buffer[];
  /** For large transactions; the etcd side writes them seldom. */
  wide: Buffer[];
}

export interface Traffic {
  keys: Keys;
  going: () => boolean;
  random: Random;
  /** Stands in the values that it writes. */
  name: string;
}

/** Keys under the prefix: where a codec would go wrong, a few plain ones, many for large transactions. */
export function trafficKeys(prefix: string): Keys {
  const under = (name: Uint8Array | string) =>
    Buffer.concat([Buffer.from(prefix), Buffer.from(name as string)]);
  const nasty = Object.values(nastyKeys).map(under);
  const plain = (name: string, count: number) =>
    Array.from({ length: count }, (_, i) => under(`${name}/${String(i).padStart(3, "0")}`));
  return {
    shared: [...nasty.slice(0, 5), ...plain("shared", 5)],
    sql: [...nasty.slice(5, 15), ...plain("sql", 20)],
    etcd: [...nasty.slice(15), ...plain("etcd", 10)],
    seldom: plain("seldom", 300),
    wide: plain("wide", 320),
  };
}

/** Mostly small texts; now and then bytes, nothing, or much. */
export function someValue({ random, name }: Traffic, n: number): Buffer {
  const text = Buffer.from(`${name} ${n}`);
  if (random.chance(0.7)) return text;
  if (random.chance(0.1)) return Buffer.alloc(0);
  if (random.chance(0.05)) return Buffer.alloc(random.integer(10_000, 200_000), text);
  const bytes = Array.from({ length: random.integer(1, 40) }, () => random.integer(0, 255));
  return Buffer.concat([text, Buffer.from(bytes)]);
}

/** Clients think, so that small batches and an empty WAL occur too. */
export async function think(random: Random): Promise<void> {
  if (random.chance(0.6)) await pause(random.integer(1, 60));
  else if (random.chance(0.03)) await pause(random.integer(500, 2_000));
}
