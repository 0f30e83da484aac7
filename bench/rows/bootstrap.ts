import { type Bench, count, type Row } from "../bench.ts";
import { copyByHand, getByHand } from "../hand.ts";
import { keyOf, now } from "../load.ts";
import { Running, type Sync } from "../program.ts";
import type { Place } from "../servers.ts";
import { OURS } from "../stats.ts";

/** From the start of the process until the mirror is whole: ours says so, of a peer the last key is there (it commits once). */
export async function bootstrapped(sync: Sync, place: Place, lastKey: string) {
  await using running = await Running.start(sync, place);
  if (sync.name === OURS) await running.untilStreaming();
  else await running.untilSeen(lastKey, 5);
  const seconds = (now() - running.began) / 1_000;
  return { values: [seconds], ...await running.cost() };
}

async function byHand(
  bench: Bench,
  round: number,
  measures: [{ name: string; unit: string }],
  prefix: string,
) {
  const parts: number[] = [];
  const attempt = { measures, seconds: 600 };
  const file = await Deno.makeTempFile();
  try {
    await bench.onPlace(round, { who: "etcdctl get", ...attempt }, async (place) => {
      parts.push(await getByHand(place, file));
      return { values: [parts[0]] };
    }, prefix);
    await bench.onPlace(round, { who: "psql \\copy", ...attempt }, async (place) => {
      if (parts.length === 0) throw new Error("there is no file to copy");
      parts.push(await copyByHand(place, file));
      return { values: [parts[1]] };
    }, prefix);
    await bench.attempt(round, { who: "by hand, both", ...attempt }, () => {
      if (parts.length < 2) return Promise.reject(new Error("one of the two failed"));
      return Promise.resolve({ values: [parts[0] + parts[1]] });
    });
  } finally {
    await Deno.remove(file);
  }
}

export const bootstrap: Row = {
  name: "bootstrap",
  what: "keys of 128 B values, from process start until the mirror is whole",
  rounds: 5,
  async run(bench) {
    for (const keys of bench.quick ? [2_000] : [200_000, 1_000_000]) {
      const prefix = `/bootstrap-${keys}/`;
      await bench.fill({ prefix, keys, valueBytes: 128 });
      const measures: [{ name: string; unit: string }] = [{ name: `${count(keys)} keys`, unit: "s" }];
      await bench.eachRound(async (round) => {
        for (const sync of bench.following) {
          await bench.onPrepared(
            round,
            sync,
            { measures, seconds: 600 },
            (place) => bootstrapped(sync, place, keyOf(prefix, keys - 1)),
            prefix,
          );
        }
        if (bench.servers.etcdctl) await byHand(bench, round, measures, prefix);
      });
    }
  },
};
