/** The drain's side of the WAL by plain SQL: what the program would claim and settle. */

import type { World } from "./world.ts";

export interface Limits {
  rows?: number;
  bytes?: number;
  transactions?: number;
  /** Claimed and not settled. */
  behind?: Pick<Claimed, "id">[];
}

export interface Claimed {
  id: number;
  txid: string;
  key: string;
}

/** The next batch. */
export async function claim(
  world: World,
  { rows = 127, bytes = 1_500_000, transactions = 127, behind = [] }: Limits = {},
): Promise<Claimed[]> {
  return await world.sql("select id, txid::text, key from etcd_drain_claim($1, $2, $3, $4)", [
    rows,
    bytes,
    transactions,
    behind.map(({ id }) => id),
  ]) as Claimed[];
}

/** Says that etcd has applied the rows. */
export async function settle(world: World, rows: Claimed[], revision = 100): Promise<void> {
  const ids = rows.map(({ id }) => id);
  await world.sql("select etcd_drain_applied(1, $1, $2, $3)", [revision, ids, ids.map(() => 0)]);
}

/** Says that etcd refused the rows. */
export async function lose(world: World, rows: Pick<Claimed, "id">[], status = "conflict"): Promise<void> {
  const ids = rows.map(({ id }) => id);
  await world.sql("select etcd_drain_lost($1, 1, $2, $3, $4)", [
    status,
    ids,
    ids.map(() => 50),
    ids.map(() => "lost"),
  ]);
}

/** Everything that waits, in the order in which it would go, settled. */
export async function drainAll(world: World, limits: Limits = {}): Promise<Claimed[]> {
  const all: Claimed[] = [];
  for (let rows = await claim(world, limits); rows.length > 0; rows = await claim(world, limits)) {
    all.push(...rows);
    await settle(world, rows);
  }
  return all;
}
