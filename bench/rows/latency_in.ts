import type { Row } from "../bench.ts";
import { now } from "../load.ts";
import { percentile } from "../stats.ts";

export const latencyIn: Row = {
  name: "latency-in",
  what: "etcd → SQL: one put of a new key at a time, from sending it until a select sees it",
  rounds: 5,
  async run(bench) {
    const puts = bench.size(1_000, 20);
    const measures = ["p50", "p99"].map((name) => ({ name, unit: "ms" }));
    await bench.eachRound(async (round) => {
      await bench.onPlace(round, { who: "etcd's answer", measures, seconds: 60 }, async (place) => {
        const times = [];
        for (let i = 0; i < puts; i++) {
          const began = now();
          await place.put(`${i}`, "value");
          times.push(now() - began);
        }
        return { values: [percentile(times, 0.5), percentile(times, 0.99)] };
      });
      for (const sync of bench.following) {
        await bench.onRunning(round, sync, { measures, seconds: 120 }, async (running, place) => {
          const times = [];
          for (let i = 0; i < puts; i++) {
            const began = now();
            await place.put(`${i}`, "value");
            await running.untilSeen(`${place.prefix}${i}`, 0);
            times.push(now() - began);
          }
          return { values: [percentile(times, 0.5), percentile(times, 0.99)], ...await running.cost() };
        });
      }
    });
  },
};
