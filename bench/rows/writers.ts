import { migrate } from "../../lib/postgres/migrate.ts";
import { type Attempt, type Bench, costSince, type Row } from "../bench.ts";
import { pgbench } from "../hand.ts";
import { Running, type Sync } from "../program.ts";
import type { Place } from "../servers.ts";

const KEYS = 100_000;

/** A script of pgbench: the statement, of key $1 and value $2, on random keys out of `keys`. */
export function writeScript(place: Place, statement: string, keys = KEYS): string {
  const filled = statement.replace("$1", `'${place.prefix}' || :k`).replace("$2", "'value-' || :k");
  return `\\set k random(1, ${keys})\n${filled.replaceAll(/\s+/g, " ")};\n`;
}

/** The limit: plain inserts into a table with the columns and indexes of etcd_wal. */
export async function plainInserts(
  bench: Bench,
  round: number,
  attempt: Omit<Attempt, "who">,
): Promise<void> {
  await bench.onPlace(round, { who: "plain inserts", ...attempt }, async (place) => {
    await migrate(place.session, "public");
    await place.session.script("create table bare (like etcd_wal including all) with (fillfactor = 50)");
    const statement = `insert into bare (key, value, txid, ts, timeline, revision, seen_revision)
      values ($1, $2, pg_current_xact_id(), now(), 1, 0, 0)`;
    return { values: [await pgbench(place, writeScript(place, statement), { seconds: bench.size(8, 1) })] };
  });
}

async function write(bench: Bench, sync: Sync, place: Place): Promise<number> {
  return await pgbench(place, writeScript(place, sync.write!), {
    seconds: bench.size(8, 1),
  });
}

export const writers: Row = {
  name: "writers",
  what:
    "SQL → etcd: writers' own rate, pgbench with 32 clients, one write a transaction, 100,000 random keys",
  rounds: 5,
  async run(bench) {
    const stopped = { measures: [{ name: "program stopped", unit: "writes/s" }], seconds: 60 };
    const draining = { measures: [{ name: "draining", unit: "writes/s" }], seconds: 120 };
    await bench.eachRound(async (round) => {
      for (const sync of bench.writing.filter(({ follows }) => follows)) {
        await bench.onPrepared(round, sync, stopped, async (place) => {
          await startedOnce(sync, place);
          return { values: [await write(bench, sync, place)] };
        });
        await bench.onRunning(round, sync, draining, async (running, place) => {
          const before = await running.cost();
          const values = [await write(bench, sync, place)];
          return { values, ...costSince(before, await running.cost()) };
        });
      }
      await plainInserts(bench, round, stopped);
      await plainInserts(bench, round, draining);
    });
  },
};

/** The first start makes the schema. */
async function startedOnce(sync: Sync, place: Place): Promise<void> {
  await using running = await Running.start(sync, place);
  await running.untilStreaming();
}
