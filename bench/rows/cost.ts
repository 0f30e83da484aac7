import { costSince, type Row } from "../bench.ts";
import { load } from "../load.ts";

const WORKLOADS = [
  { name: "transactions of 127", perTxn: 127, clients: 4 },
  { name: "single puts", perTxn: 1, clients: 16 },
];

export const cost: Row = {
  name: "cost",
  what:
    "CPU time for each million events of new keys of 128 B, of the program and of its backends in PostgreSQL",
  rounds: 5,
  async run(bench) {
    const puts = bench.size(50_000, 2_000);
    const unit = "CPU s/million";
    const measures = WORKLOADS.flatMap(({ name }) => [
      { name: `${name}, program`, unit },
      { name: `${name}, PostgreSQL`, unit },
      { name: `${name}, both`, unit },
    ]);
    await bench.eachRound((round) =>
      bench.eachFollower(
        round,
        { measures, seconds: 300 },
        async (follower, { endpoint, prefix, signal }) => {
          const values = [];
          for (const [turn, { perTxn, clients }] of WORKLOADS.entries()) {
            const before = await follower.cost();
            const first = turn * puts;
            await load(
              { endpoint, prefix, keys: puts, first, puts, perTxn, clients, valueBytes: 128 },
              signal,
            );
            await follower.arrived(20);
            const { programCpu, postgresCpu } = costSince(before, await follower.cost());
            values.push(...[programCpu, postgresCpu, programCpu + postgresCpu].map((s) => s / puts * 1e6));
          }
          return { values };
        },
      )
    );
  },
};
