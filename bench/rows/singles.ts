import { type Row } from "../bench.ts";
import { load, type Loaded } from "../load.ts";
import type { Follower } from "../program.ts";
import { pause, type Place } from "../servers.ts";
import { percentile } from "../stats.ts";

const PROBE_EVERY_MS = 50;

/** While `work` runs, a signal every 50 ms: how long after etcd's answer each arrived, in ms. */
async function lags(follower: Follower, place: Place, work: Promise<Loaded>): Promise<number[]> {
  let over = false;
  const done = work.finally(() => over = true);
  const signals: { number: number; key: string; at: number }[] = [];
  const put = (async () => {
    while (!over) {
      signals.push(await place.putSignal());
      await pause(PROBE_EVERY_MS);
    }
  })();
  for (const promise of [put, done]) promise.catch(() => {}); // they are waited for below
  try {
    const lags = [];
    for (let i = 0; !over || i < signals.length;) {
      if (i === signals.length) await pause(1);
      else {
        const signal = signals[i++];
        lags.push(Math.max(0, await follower.when(signal) - signal.at));
      }
    }
    return lags;
  } finally {
    over = true;
    await Promise.all([put, done]);
  }
}

export const singles: Row = {
  name: "singles",
  what:
    "etcd → SQL: 16 clients of single puts of 128 B; lag is from etcd's answer until seen in SQL, asked every 50 ms",
  rounds: 5,
  async run(bench) {
    const seconds = bench.size(10, 1);
    const keys = 100_000;
    const writes = { name: "etcd's puts", unit: "puts/s" };
    const measures = [
      writes,
      { name: "lag, median", unit: "ms" },
      { name: "lag, p99", unit: "ms" },
      { name: "lag, most", unit: "ms" },
      { name: "kept up with", unit: "puts/s" },
    ];
    const single = ({ endpoint, prefix, signal }: Place) =>
      load({ endpoint, prefix, keys, seconds, perTxn: 1, clients: 16, valueBytes: 128 }, signal);
    await bench.eachRound(async (round) => {
      await bench.onPlace(
        round,
        { who: "etcd alone", measures: [writes], seconds: 60 },
        async (place) => {
          const { puts, began, ended } = await single(place);
          return { values: [puts / ((ended - began) / 1_000)] };
        },
      );
      await bench.eachFollower(round, { measures, seconds: 180 }, async (follower, place) => {
        const work = single(place);
        const late = await lags(follower, place, work);
        const { puts, began, ended } = await work;
        const arrived = await follower.arrived();
        return {
          values: [
            puts / ((ended - began) / 1_000),
            percentile(late, 0.5),
            percentile(late, 0.99),
            Math.max(...late),
            puts / ((arrived - began) / 1_000),
          ],
          ...await follower.cost(),
        };
      });
    });
  },
};
