import { type Bench, count, type Measure, type Row } from "../bench.ts";
import { pgbench } from "../hand.ts";
import { now } from "../load.ts";
import { Running } from "../program.ts";
import type { Place } from "../servers.ts";
import { writeScript } from "./writers.ts";

const PARTS = 10;
const NO_LIMIT = ["--wal-limit", "never"];

/** Rates of the tenths, as what shows whether they fall. */
function flatness(rates: number[]): number[] {
  return [rates[0], Math.min(...rates), rates.at(-1)!];
}

/** The rate of each tenth of `rows` writes, while nothing drains them. */
async function queue(bench: Bench, place: Place, rows: number): Promise<number[]> {
  const rates = [];
  const script = writeScript(place, bench.ours.write!, 1e12);
  for (let part = 0; part < PARTS; part++) {
    rates.push(await pgbench(place, script, { transactions: rows / PARTS }));
  }
  return rates;
}

/** The rate of each tenth by the row that the batch in flight begins with. */
async function drained(running: Running, place: Place): Promise<number[]> {
  const [{ first, last }] = await place.session.run<{ first: number; last: number }>(
    "bench_ids",
    "select min(id) as first, max(id) as last from etcd_wal",
  );
  const tenth = (last - first + 1) / PARTS;
  const times: number[] = [];
  const reached = (id: number) => Math.min(PARTS, Math.floor((id - first) / tenth));
  await running.until(async () => {
    const [{ id, idle }] = await place.session.run<{ id: number | null; idle: boolean }>(
      "bench_in_flight",
      `select batch_rows[1] as id, state = 'streaming' and (select parked from etcd_sync_gate)
         and not exists (select from etcd_wal_tx) as idle from etcd_sync_state`,
    );
    const over = idle && times.length > 0;
    while (times.length <= (over ? PARTS : id === null ? -1 : reached(id))) times.push(now());
    return over;
  }, 10);
  return times.slice(1).map((time, i) => tenth / ((time - times[i]) / 1_000));
}

export const wal: Row = {
  name: "wal",
  what:
    "SQL → etcd: 1,000,000 rows queued while the program is stopped, then drained; the rate of each tenth",
  rounds: 1,
  async run(bench) {
    const rows = bench.size(1_000_000, 3_200);
    const part = (which: string, unit: string): Measure => ({
      name: `${count(rows)} rows, ${which} tenth, ${unit}`,
      unit,
    });
    const measures = ["queued/s", "drained/s"].flatMap((unit) =>
      ["first", "slowest", "last"].map((which) => part(which, unit))
    );
    await bench.eachRound((round) =>
      bench.onPrepared(round, bench.ours, { measures, seconds: 1_800 }, async (place) => {
        {
          await using first = await Running.start(bench.ours, place, NO_LIMIT);
          await first.untilStreaming();
        }
        const queued = await queue(bench, place, rows);
        await place.session.script("checkpoint");
        await using running = await Running.start(bench.ours, place, NO_LIMIT);
        const rates = await drained(running, place);
        return { values: [...flatness(queued), ...flatness(rates)], ...await running.cost() };
      })
    );
  },
};
