import { count, type Row } from "../bench.ts";
import { keyOf } from "../load.ts";
import { bootstrapped } from "./bootstrap.ts";

/** 1 GB of values each, but for the smallest: there the keys weigh more. These are the last: etcd deletes them for minutes. */
const CASES = [
  { keys: 1_000, bytes: 1_000_000, size: "1 MB" },
  { keys: 10_000, bytes: 100_000, size: "100 kB" },
  { keys: 1_000_000, bytes: 1_000, size: "1 kB" },
  { keys: 10_000_000, bytes: 16, size: "16 B" },
];

export const keys: Row = {
  name: "keys",
  what: "bootstrap by number of keys and size of values, from process start until the mirror is whole",
  rounds: 1,
  async run(bench) {
    for (const { keys: full, bytes, size } of bench.quick ? [CASES[0], CASES.at(-1)!] : CASES) {
      const keys = bench.size(full, Math.min(500, full / 100));
      const prefix = `/keys-${bytes}/`;
      const measures = ["keys/s", "MB/s"].map((unit) => ({
        name: `${count(keys)} of ${size}, ${unit}`,
        unit,
      }));
      await bench.fill({ prefix, keys, valueBytes: bytes });
      await bench.eachRound((round) =>
        bench.onPrepared(round, bench.ours, { measures, seconds: 1_800 }, async (place) => {
          const { values: [seconds], ...cost } = await bootstrapped(
            bench.ours,
            place,
            keyOf(prefix, keys - 1),
          );
          return { values: [keys / seconds, keys * bytes / 1e6 / seconds], ...cost };
        }, prefix)
      );
    }
  },
};
