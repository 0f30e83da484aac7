/** One round: traffic and faults for a while, then quiet, then all promises are judged. */
import { pause } from "../support/eventually.ts";
import type { Random } from "../support/random.ts";
import { PROMISES, type Run, validate } from "../support/validators.ts";
import { etcdClient } from "./etcd_client.ts";
import { FAULTS, type Scene } from "./faults.ts";
import type { Lane } from "./lanes.ts";
import { MOST_MEGABYTES } from "./memory.ts";
import type { Recorder } from "./recorder.ts";
import type { Site } from "./site.ts";
import { sqlClient } from "./sql_client.ts";
import { trafficKeys } from "./traffic.ts";

/** After the last fault all must be quiet within this time. A long queue on hot keys goes one write a round trip. */
const QUIET_MS = 180_000;

export interface RoundOptions {
  random: Random;
  /** Length of traffic and faults. */
  ms: number;
  /** Names from FAULTS; faults of different lanes are injected at once. */
  lanes: Lane[];
}

export interface RoundResult {
  /** Name and count of the faults that were injected; a name with "!" could not be. */
  faults: Map<string, number>;
  errors: number;
  /** Undefined where the round never came to rest. */
  run?: Run;
  violations: string[];
}

export async function playRound(site: Site, recorder: Recorder, options: RoundOptions): Promise<RoundResult> {
  const injected = new Map<string, number>();
  const errors = await traffic(site, recorder, options, injected);
  await site.heal();
  const result = await judge(recorder);
  const violations = [
    ...result.violations,
    ...site.instances.flatMap(({ brokenDown }) => brokenDown.splice(0)),
  ];
  if (site.memory.most > MOST_MEGABYTES) {
    violations.push(`the program took ${site.memory.most} MB of memory, more than ${MOST_MEGABYTES} MB`);
  }
  return { faults: injected, errors, run: result.run, violations };
}

async function judge(recorder: Recorder): Promise<{ run?: Run; violations: string[] }> {
  try {
    const run = await recorder.run(QUIET_MS);
    return { run, violations: validate(run).map(({ text }) => text) };
  } catch (error) {
    const text = `promise 7, "${PROMISES[7]}", is broken: it never came to rest: ${(error as Error).message}`;
    return { violations: [text] };
  }
}

/** Both sides write, and faults come and go, until the time is over; how many calls of etcd's clients failed. */
async function traffic(
  site: Site,
  recorder: Recorder,
  { random, ms, lanes }: RoundOptions,
  injected: Map<string, number>,
): Promise<number> {
  const end = performance.now() + ms;
  const going = () => performance.now() < end;
  const keys = trafficKeys(site.world.prefix);
  const clients = ["s1", "s2", "s3", "s4"].map((name) =>
    sqlClient(site.world.postgresDsn, { keys, going, name, random: random.fork() })
  );
  const others = ["e1", "e2"].map((name) =>
    etcdClient(site.etcd.dsn, { keys, going, name, random: random.fork() })
  );
  await Promise.all(
    lanes.map((lane) => injectAll(lane, { site, recorder, random: random.fork() }, going, injected)),
  );
  recorder.clients.push(...(await Promise.all(clients)).flat());
  const records = await Promise.all(others);
  recorder.acknowledged.push(...records.flatMap(({ acknowledged }) => acknowledged));
  return records.reduce((sum, { errors }) => sum + errors, 0);
}

async function injectAll(
  lane: Lane,
  scene: Omit<Scene, "last">,
  going: () => boolean,
  injected: Map<string, number>,
): Promise<void> {
  const last = async (least: number, most: number) => {
    const until = performance.now() + scene.random.integer(least, most);
    while (performance.now() < until && going()) {
      await pause(Math.min(100, Math.max(0, until - performance.now())));
    }
  };
  await last(300, 1_500);
  while (going()) {
    const name = lane.next().value;
    // what it is on may be down just now
    const done = await FAULTS[name].inject({ ...scene, last }).then(() => name, () => `${name}!`);
    injected.set(done, (injected.get(done) ?? 0) + 1);
    await last(300, 4_000);
  }
}
