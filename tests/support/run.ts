/** The program on a world, up to the point where it works; and the ways to hold and kill it there. */

import { parseEtcdDsn } from "./etcd.ts";
import { installed } from "./schema.ts";
import { eventually, type Program, type Row, type Session, type World } from "./world.ts";

export { strict } from "./schema.ts";

/** Starts the program, and waits until the mirror is whole. */
export async function streaming(
  world: World,
  args: string[] = [],
  timeoutMs = 20_000,
  env: Record<string, string> = {},
): Promise<Program> {
  const program = world.program(args, env);
  await untilStreaming(world, program, timeoutMs);
  return program;
}

export async function untilStreaming(world: World, program: Program, timeoutMs = 20_000): Promise<Row> {
  const epoch = await epochOf(world);
  let row: Row | undefined;
  await program.until(async () => {
    row = await world.state().catch(() => undefined); // the schema may not be there yet
    return row?.state === "streaming" && row.holder !== null && row.epoch >= epoch;
  }, timeoutMs);
  return row!;
}

async function epochOf(world: World): Promise<number> {
  return (await world.state().catch(() => undefined))?.epoch ?? 0;
}

/** SIGKILL. A session of it that waits for a lock does not notice, and would go on when it gets the lock. */
export async function killed(program: Program): Promise<void> {
  program.kill("SIGKILL");
  await program.status;
}

/** SIGKILL, and the end of its sessions: from here on nothing of it is under way in PostgreSQL. */
export async function crashed(world: World, program: Program): Promise<void> {
  await killed(program);
  await eventually(async () => {
    const sessions = await world.sql(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where application_name like 'etcd-pg-sync%' and datname = current_database()`,
    );
    return sessions.length === 0;
  });
}

/** What `session` locks stays locked until it is let go. */
export async function hold(session: Session, lock: string): Promise<() => Promise<void>> {
  await session.sql("begin");
  await session.sql(lock);
  return async () => void await session.sql("commit");
}

/** Holds the drain's next turn, and the mirror's next commit, by the state row; not for longer than the lease. */
export async function holdDrain(world: World): Promise<() => Promise<void>> {
  await eventually(async () => {
    const [row] = await world.sql(
      "select holder, marker_revision, parked from etcd_sync_state, etcd_sync_gate",
    );
    const marker = await world.etcd.get("/_etcd-pg-sync/default");
    return row.parked && marker?.mod_revision === row.marker_revision &&
      String(marker!.value).includes(row.holder);
  });
  return hold(world.session(), "select from etcd_sync_state for update");
}

/** Waits until a session of this program waits for a lock (those of a killed one may wait too). */
export async function untilBlocked(world: World, program: Program, query: RegExp): Promise<void> {
  await program.until(async () => {
    const rows = await world.sql(
      `select query from pg_stat_activity
       where application_name like 'etcd-pg-sync%' and wait_event_type = 'Lock' and datname = current_database()
         and backend_start > $1`,
      [program.started],
    );
    return rows.some((row) => query.test(row.query));
  });
}

/** So many renewals of the lease go by, one a second: the leader is alive, and could have done what it must not do. */
export async function renewals(world: World, count: number): Promise<void> {
  for (let n = 0; n < count; n++) {
    const before = (await world.state())!.lease_until.getTime();
    await eventually(async () => (await world.state())!.lease_until.getTime() > before);
  }
}

/** The audit's rows of one kind, oldest first. */
export function events(world: World, kind: string): Promise<Row[]> {
  return world.sql("select * from etcd_sync_event where kind = $1 order by id", [kind]);
}

/** A scan that is held before its first page is committed: the page has been read, the watch is open. */
export interface HeldScan {
  program: Program;
  /** Lets the program write once more, up to the next commit of the mirror. */
  nextStep(): Promise<void>;
  release(): Promise<void>;
}

/** Of the lock that waits: whether a session of the program waits before it, and does not give up just now. */
const BEHIND_THE_PROGRAM = `
  select exists (
    select from pg_locks p join pg_stat_activity a using (pid)
    where not p.granted and p.relation = ours.relation and p.pid <> ours.pid and p.waitstart < ours.waitstart
      and a.application_name like 'etcd-pg-sync%' and clock_timestamp() - p.waitstart < interval '600 ms'
  ) as behind
  from pg_locks ours join pg_stat_activity o using (pid)
  where not ours.granted and ours.waitstart is not null and o.query = $1 and o.datname = current_database()`;

export async function heldScan(world: World, args: string[] = []): Promise<HeldScan> {
  await installed(world, { prefix: world.prefix });
  const lock = "lock table etcd_kv in exclusive mode";
  let release = await hold(world.session(), lock);
  const program = world.program(args);
  await untilBlocked(world, program, /etcd_kv/);
  return {
    program,
    async nextStep() {
      for (;;) {
        const next = world.session();
        const held = hold(next, lock);
        held.catch(() => {}); // it may be cancelled
        const [{ behind }] = await eventually(async () => {
          const rows = await world.sql(BEHIND_THE_PROGRAM, [lock]);
          return rows.length > 0 ? rows : undefined;
        });
        if (behind) {
          await release();
          release = await held;
          return;
        }
        // the program has given up after its second, and stands behind us now
        await world.sql(
          "select pg_cancel_backend(pid) from pg_stat_activity where query = $1 and wait_event_type = 'Lock'",
          [
            lock,
          ],
        );
        await held.catch(() => {});
        await next.sql("rollback");
      }
    },
    release: () => release(),
  };
}

/** Waits until etcd has answered every range request that has come to it. */
export async function rangesAnswered(world: World): Promise<void> {
  const [host] = parseEtcdDsn(world.etcdDsn).hosts;
  await eventually(async () => {
    const metrics = await (await fetch(`http://${host}/metrics`)).text();
    const count = (what: string) => {
      const line = new RegExp(`^grpc_server_${what}_total\\{.*grpc_method="Range".*\\} (\\S+)$`, "gm");
      return [...metrics.matchAll(line)].reduce((sum, [, number]) => sum + Number(number), 0);
    };
    const started = count("started");
    return started > 0 && count("handled") === started;
  });
}

/** A batch that is held between etcd's answer and its settlement. */
export interface HeldBatch {
  ids: number[];
  release(): Promise<void>;
}

/**
 * Runs the writes in one transaction, with settlements held from its commit on: the drain's claim only reads etcd_wal,
 * and a lock that stands in line behind the writer has it before the drain can.
 */
export async function writeAndHold(
  world: World,
  writes: [statement: string, params?: unknown[]][],
): Promise<HeldBatch> {
  const writer = world.session();
  const ids: number[] = [];
  await writer.sql("begin");
  for (const [statement, params] of writes) {
    ids.push((await writer.sql(`select ${statement} as id`, params))[0].id);
  }
  const lock = "lock table etcd_wal in share mode";
  const held = hold(world.session(), lock);
  await eventually(async () =>
    (await world.sql(
      "select 1 from pg_stat_activity where query = $1 and wait_event_type = 'Lock' and datname = current_database()",
      [lock],
    )).length > 0
  );
  await writer.sql("commit");
  const release = await held;
  return { ids, release };
}

/** The drain finds all that `write` queues at once, and claims of it; no settlement comes through. */
export async function unsettled(world: World, write: () => Promise<void>): Promise<() => Promise<void>> {
  const letGo = await holdDrain(world);
  await write();
  const release = await hold(world.session(), "lock table etcd_wal in share mode");
  await letGo();
  return release;
}

/**
 * Three transactions of which each repeats the key `hot` of the one before, so each is a batch of its own. The drain claims
 * two of them; no settlement comes through.
 */
export function twoInFlight(world: World): Promise<() => Promise<void>> {
  return unsettled(world, async () => {
    for (const value of ["1", "2", "3"]) {
      const keys = [world.key("hot"), world.key(value)];
      await world.sql("select etcd_set($1, $3), etcd_set($2, $3)", [...keys, value]);
    }
  });
}

/** As `twoInFlight`, and etcd has applied both. */
export async function twoApplied(world: World, program: Program): Promise<() => Promise<void>> {
  const release = await twoInFlight(world);
  await untilBlocked(world, program, /etcd_drain_turn/);
  await eventually(async () => String((await world.etcd.get(world.key("hot")))?.value) === "2");
  return release;
}

/** The WAL in short: the first letter of each row's status. */
export async function waiting(world: World): Promise<string> {
  return (await world.sql("select status from etcd_wal order by id")).map(({ status }) => status[0]).join("");
}
