import { type Bench, count, type Measure, type Row } from "../bench.ts";
import { keyOf, load, now } from "../load.ts";
import { Running, type Sync, writtenBy } from "../program.ts";
import { openSession, type Place } from "../servers.ts";
import { bootstrapped } from "./bootstrap.ts";

/** Rows that were written to the tables of the mirror so far; exact only while no session of the program is open. */
async function rowsWritten(place: Place): Promise<number> {
  await using session = await openSession(place.dsn); // another one would see its first answer again
  const [{ rows }] = await session.run<{ rows: number }>(
    "bench_rows_written",
    `select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint as rows from pg_stat_user_tables
     where relname not like 'etcd_sync%'`,
  );
  return rows;
}

/** A first start on a full keyspace, then `meanwhile`, then a second start. */
async function twice(sync: Sync, place: Place, keys: number, meanwhile: () => Promise<void>) {
  const lastKey = keyOf(place.prefix, keys - 1);
  const { values: [bootstrap] } = await bootstrapped(sync, place, lastKey);
  await meanwhile();
  await place.session.script("checkpoint");
  const [before, rows] = [await writtenBy(place.session, sync, lastKey), await rowsWritten(place)];
  const { seconds, cost } = await startAgain(sync, place, lastKey, before);
  return { values: [bootstrap, seconds, await rowsWritten(place) - rows], ...cost };
}

async function startAgain(sync: Sync, place: Place, lastKey: string, before: string) {
  await using running = await Running.start(sync, place);
  await running.untilUpToDate(lastKey, before);
  return { seconds: (now() - running.began) / 1_000, cost: await running.cost() };
}

async function startTwice(
  bench: Bench,
  again: string,
  meanwhile: (place: Place, keys: number) => Promise<void>,
) {
  const keys = bench.size(1_000_000, 2_000);
  const prefix = "/restart/";
  await bench.fill({ prefix, keys, valueBytes: 128 });
  const measures: Measure[] = [
    { name: `bootstrap, ${count(keys)} keys`, unit: "s" },
    { name: again, unit: "s" },
    { name: `${again}, rows written`, unit: "rows" },
  ];
  await bench.eachRound(async (round) => {
    for (const sync of bench.following) {
      await bench.onPrepared(
        round,
        sync,
        { measures, seconds: 600 },
        (place) => twice(sync, place, keys, () => meanwhile(place, keys)),
        prefix,
      );
    }
  });
}

export const restart: Row = {
  name: "restart",
  what: "a second start with nothing changed, from process start until the mirror is known to be up to date",
  rounds: 3,
  run: (bench) => startTwice(bench, "restart", () => Promise.resolve()),
};

export const resync: Row = {
  name: "resync",
  what: "a second start after 1 % of the keys was changed and etcd compacted, until the mirror is up to date",
  rounds: 3,
  run: (bench) =>
    startTwice(bench, "resync", async (place, keys) => {
      const { endpoint, prefix, signal } = place;
      const changed = keys / 100;
      await load(
        {
          endpoint,
          prefix,
          keys: changed,
          step: 100,
          puts: changed,
          perTxn: 127,
          clients: 4,
          valueBytes: 128,
        },
        signal,
      );
      await place.compact();
    }),
};
