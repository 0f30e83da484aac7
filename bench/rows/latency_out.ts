import type { Row } from "../bench.ts";
import { keyOf, now } from "../load.ts";
import { openSession } from "../servers.ts";
import { percentile } from "../stats.ts";
import { KeyWatch } from "../key_watch.ts";

export const latencyOut: Row = {
  name: "latency-out",
  what: "SQL → etcd: one transaction of one write at a time, from its commit until a watch of etcd brings it",
  rounds: 5,
  async run(bench) {
    const slowMs = bench.size(60_000, 2_000);
    const measures = ["p50", "p99"].map((name) => ({ name, unit: "ms" }));
    await bench.eachRound(async (round) => {
      for (const sync of bench.writing) {
        await bench.onRunning(
          round,
          sync,
          { measures, seconds: 120 },
          async (running, place) => {
            const writes = bench.size(1_000, 20);
            await using session = await openSession(place.dsn);
            using watch = await KeyWatch.open(place);
            const times = [];
            const began = now();
            // one that is slow has had its say after a minute
            for (let i = 0; i < writes && now() - began < slowMs; i++) {
              const key = keyOf(`${place.prefix}out/`, i);
              await session.run("bench_write", sync.write!, [key, "value"]);
              const committed = now();
              times.push(Math.max(0, await watch.when(key) - committed));
            }
            return { values: [percentile(times, 0.5), percentile(times, 0.99)], ...await running.cost() };
          },
        );
      }
    });
  },
};
