/** Every committed change of the state row, by a trigger of the suite's own: who made it, and what it moved. */
import type { Move } from "../support/validators.ts";
import { Session, type World } from "../support/world.ts";

// The trigger runs while the row is locked, so `seq` is the order of the commits.
const INSTALL = `
create schema robustness;
create table robustness.move (
  seq bigint generated always as identity primary key, pid integer, epoch bigint, holder text, pids integer[],
  state text, timeline bigint, revision bigint, batch bigint, fault boolean
);
create function robustness.note_move() returns trigger language plpgsql security definer as $$
begin
  insert into robustness.move (pid, epoch, holder, pids, state, timeline, revision, batch, fault)
  values (pg_backend_pid(), new.epoch, new.holder::text, new.holder_pids, new.state, new.timeline, new.revision, new.batch_id,
    coalesce(current_setting('robustness.fault', true), '') = 'on');
  return null;
end $$;
create trigger note_move after update on etcd_sync_state for each row
when ((old.epoch, old.holder, old.holder_pids, old.state, old.timeline, old.revision, old.batch_id)
  is distinct from (new.epoch, new.holder, new.holder_pids, new.state, new.timeline, new.revision, new.batch_id))
execute function robustness.note_move()`;

/** On a schema that is installed. */
export async function installAudit(world: World): Promise<void> {
  await world.sql(INSTALL);
}

/** Changes the database as a fault of the suite, which the audit marks. */
export async function asFault(world: World, ...statements: string[]): Promise<void> {
  await using session = new Session(world.postgresDsn, { once: true });
  await session.sql(`begin; set local robustness.fault = on; ${statements.join("; ")}; commit`);
}

export async function readMoves(world: World): Promise<Move[]> {
  return await world.sql(
    "select pid, epoch, holder, pids, state, timeline, revision, batch, fault from robustness.move order by seq",
  ) as Move[];
}
