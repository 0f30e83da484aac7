import { count, type Row } from "../bench.ts";
import { load, now } from "../load.ts";
import { Running, type Sync } from "../program.ts";
import type { Place } from "../servers.ts";
import { OURS } from "../stats.ts";
import { BareWatch } from "../watch.ts";

/** Writes while nobody follows. Returns the signal that comes last. */
async function fall(place: Place, behind: number): Promise<{ number: number; key: string }> {
  const { endpoint, prefix, signal } = place;
  await load(
    { endpoint, prefix, keys: behind / 2, puts: behind, perTxn: 1, clients: 16, valueBytes: 128 },
    signal,
  );
  await place.session.script("checkpoint");
  return await place.putSignal();
}

async function startAgain(sync: Sync, place: Place, signal: { key: string }) {
  await using running = await Running.start(sync, place);
  await running.when(signal);
  if (sync.name === OURS) await running.untilStreaming();
  return { values: [(now() - running.began) / 1_000], ...await running.cost() };
}

export const backlog: Row = {
  name: "backlog",
  what:
    "back from 200,000 single-put revisions behind, of 100,000 keys: from process start until the last is in SQL",
  rounds: 3,
  async run(bench) {
    const behind = bench.size(200_000, 2_000);
    const attempt = { measures: [{ name: `${count(behind)} revisions`, unit: "s" }], seconds: 600 };
    await bench.eachRound(async (round) => {
      for (const sync of bench.following) {
        await bench.onPrepared(round, sync, attempt, async (place) => {
          {
            await using running = await Running.start(sync, place);
            await running.untilStreaming();
          }
          return await startAgain(sync, place, await fall(place, behind));
        });
      }
      await bench.onPlace(round, { who: "bare watch", ...attempt }, async (place) => {
        const from = await place.revision();
        const signal = await fall(place, behind);
        await using watch = await BareWatch.open(place, from);
        return { values: [(await watch.when(signal) - watch.began) / 1_000], ...await watch.cost() };
      });
    });
  },
};
