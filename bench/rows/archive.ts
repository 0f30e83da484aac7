import { costSince, count, type Row } from "../bench.ts";
import { pgbench } from "../hand.ts";
import { load } from "../load.ts";
import { Running } from "../program.ts";
import type { Place } from "../servers.ts";
import { writeScript } from "./writers.ts";

const KEYS = 100_000;
const NO_LIMIT = ["--wal-limit", "never"];

/** So many rows of both, as if every key had been written again and again, from etcd and from SQL. */
async function fill(place: Place, rows: number): Promise<void> {
  await place.session.script(`
    set session_replication_role = replica; -- as the program left them: what checks a writer does not run
    insert into etcd_archive (timeline, key, revision, until_revision, tombstone, value, create_revision, version, lease)
      select 1, '${place.prefix}' || lpad((i % ${KEYS})::text, 8, '0'), -1 - i / ${KEYS}, -i / ${KEYS}, false, rpad('', 128, 'v'), 1, 1, 0
      from generate_series(0, ${rows - 1}) i;
    insert into etcd_wal (txid, key, value, timeline, revision, seen_revision, status, expected_revision, result_revision, batch_id, ts, settled_at)
      select '3', '${place.prefix}' || lpad((i % ${KEYS})::text, 8, '0'), rpad('', 128, 'v'), 1, 0, 0, 'success', 0, 1, 1,
        now() - (i / ${KEYS} + 1) * interval '1 ms', now()
      from generate_series(0, ${rows - 1}) i;
    reset session_replication_role;`);
  for (const table of ["etcd_archive", "etcd_wal"]) await place.session.script(`vacuum analyze ${table}`);
  await place.session.script("checkpoint");
}

export const archive: Row = {
  name: "archive",
  what: "updates of 100,000 keys from etcd, and pgbench's writes, on a WAL and an archive of many rows",
  rounds: 1,
  async run(bench) {
    const updates = bench.size(100_000, 2_000);
    const seconds = bench.size(8, 1);
    for (const rows of bench.quick ? [1_000] : [10_000, 10_000_000]) {
      const measures = ["events/s", "CPU s/million events", "writes/s"].map((unit) => ({
        name: `${count(rows)} rows, ${unit}`,
        unit,
      }));
      await bench.eachRound((round) =>
        bench.onPrepared(round, bench.ours, { measures, seconds: 3_600 }, async (place) => {
          const { endpoint, prefix, signal } = place;
          const put = () =>
            load(
              { endpoint, prefix, keys: KEYS, puts: updates, perTxn: 127, clients: 4, valueBytes: 128 },
              signal,
            );
          {
            await using first = await Running.start(bench.ours, place);
            await first.untilStreaming();
            await put();
            await first.arrived();
          }
          await fill(place, rows);
          await using running = await Running.start(bench.ours, place, NO_LIMIT);
          await running.untilStreaming();
          const before = await running.cost();
          const { began } = await put();
          const eventsPerSecond = updates / ((await running.arrived() - began) / 1_000);
          const spent = costSince(before, await running.cost());
          const cpu = (spent.programCpu + spent.postgresCpu) / updates * 1e6;
          const writesPerSecond = await pgbench(place, writeScript(place, bench.ours.write!), { seconds });
          return { values: [eventsPerSecond, cpu, writesPerSecond], ...spent };
        })
      );
    }
  },
};
