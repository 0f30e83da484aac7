import { costSince, type Row } from "../bench.ts";
import { load } from "../load.ts";

export const batches: Row = {
  name: "batches",
  what: "etcd → SQL: transactions of 127 puts of 128 B, from the first put until all are in SQL",
  rounds: 5,
  async run(bench) {
    const puts = bench.size(100_000, 2_000);
    const measures = ["new keys", "updates"].map((name) => ({ name, unit: "events/s" }));
    await bench.eachRound((round) =>
      bench.eachFollower(round, { measures, seconds: 300 }, async (follower, place) => {
        const before = await follower.cost();
        const values = [];
        for (let turn = 0; turn < measures.length; turn++) { // the same keys in each
          const { began } = await load({
            endpoint: place.endpoint,
            prefix: place.prefix,
            keys: puts,
            puts,
            perTxn: 127,
            clients: 4,
            valueBytes: 128,
          }, place.signal);
          values.push(puts / ((await follower.arrived() - began) / 1_000));
        }
        return { values, ...costSince(before, await follower.cost()) };
      })
    );
  },
};
