/** The program on a world, up to the point where it works; and the ways to hold and kill it there. */

import type { Program, Row, Session, World } from "./world.ts";

export { strict } from "./schema.ts";

/** Starts the program, and waits until the mirror is whole. */
export async function streaming(world: World, args: string[] = [], timeoutMs = 20_000): Promise<Program> {
  const program = world.program(args);
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

/** SIGKILL, and the end of its sessions: from here on nothing of it is under way. */
export async function killed(program: Program): Promise<void> {
  program.kill("SIGKILL");
  await program.status;
}

/** What `session` locks stays locked until it is let go. */
export async function hold(session: Session, lock: string): Promise<() => Promise<void>> {
  await session.sql("begin");
  await session.sql(lock);
  return async () => void await session.sql("commit");
}

/** Waits until a session of the program waits for a lock; what it was about to do. */
export async function untilBlocked(world: World, program: Program, query: RegExp = /./): Promise<string> {
  let found: string | undefined;
  await program.until(async () => {
    const rows = await world.sql(
      `select query from pg_stat_activity
       where application_name like 'etcd-pg-sync%' and wait_event_type = 'Lock' and datname = current_database()`,
    );
    found = rows.map((row) => row.query as string).find((text) => query.test(text));
    return found !== undefined;
  });
  return found!;
}

/** The audit's rows of one kind, oldest first. */
export function events(world: World, kind: string): Promise<Row[]> {
  return world.sql("select * from etcd_sync_event where kind = $1 order by id", [kind]);
}
