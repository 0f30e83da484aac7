import type { Row } from "../bench.ts";
import { load, now } from "../load.ts";
import { openSession } from "../servers.ts";

const COUNT_EVERY_MS = 20;

export const drain: Row = {
  name: "drain",
  what: "SQL → etcd: 20,000 rows of 128 B in one transaction, from its commit until all are in etcd",
  rounds: 5,
  async run(bench) {
    const rows = bench.size(20_000, 500);
    const slowMs = bench.size(60_000, 2_000);
    const measures = [{ name: "one transaction", unit: "rows/s" }];
    const attempt = { measures, seconds: 180 };
    await bench.eachRound(async (round) => {
      for (const sync of bench.writing) {
        await bench.onRunning(round, sync, attempt, async (running, place) => {
          await using session = await openSession(place.dsn);
          await session.run("bench_many", sync.writeMany!, [`${place.prefix}out/`, rows]);
          const committed = now();
          let arrived = 0;
          await running.until(async () => {
            arrived = await place.count("out/");
            return arrived === rows || now() - committed > slowMs;
          }, COUNT_EVERY_MS);
          // one that is slow has its rate so far
          return { values: [arrived / ((now() - committed) / 1_000)], ...await running.cost() };
        });
      }
      for (const clients of [1, 4]) {
        const who = `raw etcd transactions, ${clients === 1 ? "one at a time" : `${clients} at once`}`;
        await bench.onPlace(round, { who, ...attempt }, async ({ endpoint, prefix, signal }) => {
          const { began, ended } = await load(
            { endpoint, prefix, keys: rows, puts: rows, perTxn: 127, clients, valueBytes: 128 },
            signal,
          );
          return { values: [rows / ((ended - began) / 1_000)] };
        });
      }
    });
  },
};
