/**
 * What an operator of etcd and PostgreSQL meets, by name. Each fault is over, and healed, when its `inject` returns.
 *
 * A new one: a line in the table, with a comment that says what it is after. Two are injected at once only where they
 * are on different things.
 */
import type { Random } from "../support/random.ts";
import { isWhole } from "../../lib/machine.ts";
import { eventually } from "../support/eventually.ts";
import { type Row, Session } from "../support/postgres.ts";
import { hold } from "../support/run.ts";
import { asFault } from "./audit.ts";
import type { Instance } from "./instance.ts";
import type { Direction, Proxy, Slowness } from "./proxy.ts";
import type { Recorder } from "./recorder.ts";
import type { Site } from "./site.ts";

export interface Scene {
  site: Site;
  recorder: Recorder;
  random: Random;
  /** How long a fault lasts; ends early with the round. */
  last(leastMs: number, mostMs: number): Promise<void>;
}

export interface Fault {
  on: "program" | "etcd" | "postgres" | "way to etcd" | "way to postgres";
  inject(scene: Scene): Promise<void>;
}

export const FAULTS: Record<string, Fault> = {
  // a crash: the session lock frees the place at once, the batch in flight is resolved by the marker
  "leader-killed": program(async ({ site }) => await (await leader(site)).kill()),
  // nothing may come of it
  "standby-killed": program(async ({ site, random }) => {
    const leading = await leader(site);
    await random.pick(site.instances.filter((instance) => instance !== leading)).kill();
  }),
  // wherever it is: in its start, standing by, taking over
  "any-killed": program(async ({ site, random }) => await random.pick(site.instances).kill()),
  // crashes in a row: a taker over dies in its takeover
  "all-killed": program(async ({ site, last }) => {
    for (const instance of site.instances) {
      await instance.kill();
      await last(0, 600);
    }
  }),
  // beyond the lease (5 s) another one takes over; before it the same one goes on
  "leader-frozen": program(async ({ site, last }) => {
    const frozen = await leader(site);
    frozen.freeze();
    await last(1_000, 8_000);
    frozen.wake();
  }),
  // its lease ends and its sessions live: what a pooler, or a clock that jumps, makes of a leader. Only the fences hold
  "leader-deposed": program(async ({ site, last }) => {
    await depose(site);
    await last(500, 2_000);
  }),
  // it wakes up as somebody whose sessions still work, with a statement or a Txn half done
  "leader-deposed-in-its-sleep": program(async ({ site, last }) => {
    const frozen = await leader(site);
    frozen.freeze();
    await depose(site);
    await last(500, 3_000);
    frozen.wake();
  }),
  // a Txn is on its way when its sender dies, and arrives when another leads: only the marker stops it
  "late-request": program(async ({ site, last }) => {
    const dying = await leader(site);
    await holding(dying.etcd, async () => {
      await last(50, 500);
      await dying.kill();
      await last(1_000, 3_000);
    });
  }),
  // the same of a living sender, which sees the answer. Its way is long before it is held, so that a Txn is on it; the
  // next leader is slow, so that the Txn comes when that has bumped the marker, and has not sent the batch anew
  "late-request-of-the-deposed": program((scene) =>
    slowly(scene, { delayMs: 50 }, "up", async () => {
      const { site, last } = scene;
      await untilState(site, ({ state }) => isWhole(state));
      const { etcd } = await leader(site);
      etcd.slow({ delayMs: 200 }, "up");
      try {
        await last(500, 1_000);
        await holding(etcd, async () => {
          const bumped = await epochOfMarker(site);
          await oust(site);
          await eventually(async () => await epochOfMarker(site) > bumped, PATIENT);
        });
      } finally {
        etcd.heal();
      }
    })
  ),
  // the same in PostgreSQL: a turn of the drain, a commit of the mirror and a renewal arrive when another leads and has
  // drained. Its way is long before it is held, so that a turn is on it; and writes wait when that arrives
  "late-commit-of-the-deposed": program(async ({ site, last }) => {
    await untilState(site, ({ state }) => isWhole(state)); // in a scan the drain rests
    const { postgres } = await leader(site);
    postgres.slow({ delayMs: 150 }, "up");
    try {
      await last(500, 1_000);
      await holding(postgres, async () => {
        const { epoch, batch_id } = (await site.world.state())!;
        await depose(site);
        await untilState(site, (row) => row.epoch > epoch && row.batch_id > batch_id + 1);
        await using session = new Session(site.world.postgresDsn, { once: true });
        const unlock = await hold(session, "select from etcd_sync_state for update");
        postgres.release();
        await last(300, 600);
        await unlock();
      });
    } finally {
      postgres.heal();
    }
  }),

  "etcd-killed": on("etcd", async ({ site, last }) => {
    await site.etcd.stop();
    await last(0, 3_000);
    await site.etcd.start();
  }),
  // all that is recorded: a watch that lags, or is down, has lost its history
  "compacted-to-now": on("etcd", async ({ site, recorder }) => {
    await site.etcd.etcd.compact(await recorder.logUpToNow(), false);
  }),
  "compacted-to-older": on("etcd", async ({ site, recorder, random }) => {
    const now = await recorder.logUpToNow();
    await site.etcd.etcd.compact(random.integer(Math.max(2, now - 500), now));
  }),
  // the watch is behind when its history goes: the scan runs under traffic
  "compacted-behind-the-watch": on("etcd", (scene) => loseHistory(scene, 2_000)),
  // the same with a slow PostgreSQL: a page that is read ahead waits, and events arrive before it is merged
  "compacted-and-slow": on("etcd", (scene) =>
    slowly(scene, { delayMs: 100 }, "up", async () => {
      await loseHistory(scene, 1_000);
      await scanned(scene.site);
    })),
  // the same on a narrow way to PostgreSQL: while a page of many keys is on it, the next is read ahead, and then its
  // keys are put and deleted. Merged as it was read, it brings back what is gone, and takes away what is newer
  "scan-overtaken": on("etcd", (scene) =>
    slowly(scene, { bytesPerSecond: 500_000 }, "up", async () => {
      await loseHistory(scene, 600);
      await scanned(scene.site);
    })),
  // etcd answers nobody while it does so
  "defragmented": on("etcd", async ({ site }) => await site.etcd.etcd.defragment()),
  // the drain parks, the mirror goes on
  "no-space": on("etcd", async ({ site, last }) => {
    await site.etcd.etcd.raiseNoSpace();
    await last(500, 4_000);
    await site.etcd.etcd.clearNoSpace();
  }),

  // only the postmaster: its sessions notice one by one
  "postgres-killed": on(
    "postgres",
    ({ site, last }) => restartPostgres(site, "SIGKILL", () => last(0, 2_000)),
  ),
  "postgres-shut-down-immediately": on(
    "postgres",
    ({ site, last }) => restartPostgres(site, "SIGQUIT", () => last(0, 2_000)),
  ),
  "backends-terminated": on("postgres", async ({ site }) => {
    await terminate(site, "true");
  }),
  // a leadership loses one of its three sessions
  "backend-terminated": on("postgres", async ({ site }) => {
    await terminate(site, "pid in (select pid from pg_stat_activity order by random() limit 3)");
  }),
  // PostgreSQL has lost its last commits and the leader's sessions live: what a failover behind a pooler looks like.
  // Only the checkpoint's guard notices
  "mirror-set-back": on("postgres", async ({ site, recorder, last }) => {
    await asFault(site.world, ...SAVE_MIRROR);
    await last(300, 2_000);
    await recorder.settingBack(() => asFault(site.world, ...SET_BACK_MIRROR));
  }),

  ...waysTo("etcd"),
  ...waysTo("postgres"),
};

function program(inject: Fault["inject"]): Fault {
  return { on: "program", inject };
}

function on(what: Fault["on"], inject: Fault["inject"]): Fault {
  return { on: what, inject };
}

/** The faults of the network, each on the way of one instance or of all. */
function waysTo(server: "etcd" | "postgres"): Record<string, Fault> {
  const way = (inject: (proxy: Proxy, scene: Scene) => Promise<void> | void) =>
    on(`way to ${server}`, async (scene) => {
      const { instances } = scene.site;
      const some = scene.random.chance(0.5) ? instances : [await leader(scene.site)];
      await Promise.all(some.map((instance) => inject(instance[server], scene)));
    });
  const held = (...directions: Direction[]) =>
    way(async (proxy, { random, last }) => {
      const cut = random.chance(0.5);
      proxy.hold(...directions);
      await (random.chance(0.15) ? last(8_000, 15_000) : last(100, 6_000));
      if (cut) proxy.cut();
      proxy.release();
    });
  return {
    [`${server}-cut`]: way((proxy) => proxy.cut()),
    // requests do not arrive; or arrive late
    [`${server}-held-up`]: held("up"),
    // answers and events do not arrive; or arrive late
    [`${server}-held-down`]: held("down"),
    // a network that takes everything and gives nothing
    [`${server}-partitioned`]: held("up", "down"),
    // the request is sent, and its answer lost
    [`${server}-answer-lost`]: way(async (proxy, { last }) => {
      const lost = proxy.loseAnswer();
      await Promise.race([lost, last(2_000, 2_000)]);
      proxy.cut();
    }),
    [`${server}-slow`]: way(async (proxy, { random, last }) => {
      const directions = random.pick<Direction[]>([["up"], ["down"], ["up", "down"]]);
      proxy.slow(
        { delayMs: random.integer(5, 100), bytesPerSecond: random.integer(20_000, 500_000) },
        ...directions,
      );
      await last(1_000, 8_000);
      proxy.heal();
    }),
    [`${server}-refused`]: way(async (proxy, { last }) => {
      proxy.refuse();
      proxy.cut();
      await last(300, 4_000);
      proxy.heal();
    }),
  };
}

async function leader(site: Site): Promise<Instance> {
  const leading = await site.leader();
  if (!leading) throw new Error("nobody leads");
  return leading;
}

/** The watches lag, and what they lag behind is compacted. */
async function loseHistory({ site, recorder, last }: Scene, mostMs: number): Promise<void> {
  for (const { etcd } of site.instances) etcd.hold("down");
  try {
    await last(300, mostMs);
    await site.etcd.etcd.compact(await recorder.logUpToNow(), false);
    for (const { etcd } of site.instances) etcd.cut();
  } finally {
    for (const { etcd } of site.instances) etcd.release();
  }
}

/** While PostgreSQL is slow for all instances. */
async function slowly(
  { site }: Scene,
  slowness: Slowness,
  direction: Direction,
  work: () => Promise<void>,
): Promise<void> {
  for (const { postgres } of site.instances) postgres.slow(slowness, direction);
  try {
    await work();
  } finally {
    for (const { postgres } of site.instances) postgres.heal();
  }
}

/** The machine may be slow. */
const PATIENT = { timeoutMs: 30_000 };

async function untilState(site: Site, is: (row: Row) => boolean): Promise<void> {
  await eventually(async () => is((await site.world.state())!), PATIENT);
}

/** A scan has begun and ended: the next loss of history would begin it again. */
async function scanned(site: Site): Promise<void> {
  await untilState(site, ({ state }) => !isWhole(state));
  await untilState(site, ({ state }) => isWhole(state));
}

async function epochOfMarker(site: Site): Promise<number> {
  const marker = await site.etcd.etcd.get("/_etcd-pg-sync/default");
  return marker ? JSON.parse(String(marker.value)).epoch : 0;
}

async function holding(proxy: Proxy, work: () => Promise<void>): Promise<void> {
  proxy.hold("up");
  try {
    await work();
  } finally {
    proxy.release();
  }
}

function depose(site: Site): Promise<void> {
  return asFault(
    site.world,
    "update etcd_sync_state set lease_until = clock_timestamp(), holder_pids = '{}'",
  );
}

/** Deposes the leader until another leads: it renews its lease meanwhile. */
async function oust(site: Site): Promise<void> {
  const { epoch } = (await site.world.state())!;
  await eventually(async () => {
    await asFault(
      site.world,
      `update etcd_sync_state set lease_until = clock_timestamp(), holder_pids = '{}' where epoch = ${epoch}`,
    );
    return (await site.world.state())!.epoch > epoch;
  }, PATIENT);
}

async function restartPostgres(
  { postgres }: Site,
  signal: "SIGKILL" | "SIGQUIT",
  last: () => Promise<void>,
): Promise<void> {
  await postgres.kill(signal);
  await last();
  await postgres.start();
}

async function terminate(site: Site, which: string): Promise<void> {
  await site.world.sql(
    `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'etcd-pg-sync%' and ${which}`,
  );
}

const SAVE_MIRROR = [
  "set transaction isolation level repeatable read",
  "drop table if exists robustness.kv, robustness.state",
  "create table robustness.kv as select * from etcd_kv",
  `create table robustness.state as
   select s.revision, s.timeline, s.fresh_at, g.seen_revision, g.deleted from etcd_sync_state s, etcd_sync_gate g
   where s.state in ('streaming', 'draining')`,
];

/** Only within the timeline, and only while the mirror is whole. */
const SET_BACK_MIRROR = [
  "create temp table back on commit drop as " +
  `select b.* from robustness.state b, (select * from etcd_sync_state for update) s
   where s.timeline = b.timeline and s.state in ('streaming', 'draining')`,
  "delete from etcd_archive a using back b where a.timeline = b.timeline and (a.revision > b.revision or a.until_revision > b.revision)",
  "delete from etcd_kv k using back b where k.revision > b.revision",
  "insert into etcd_kv select k.* from robustness.kv k, back on conflict do nothing",
  "update etcd_sync_gate g set seen_revision = b.seen_revision, deleted = true from back b",
  "update etcd_sync_state s set revision = b.revision, fresh_at = b.fresh_at, probe_key = null, probe_revision = null from back b",
];
