/** The mirror at one revision, to be compared; repairs; and what a comparison has found. The SQL is in sql/011_verify.sql. */
// @ts-types="@types/pg"
import pg from "pg";
import type { MirrorEntry, RepairColumns } from "../core/compare.ts";
import { type PostgresOptions, Session } from "./client.ts";
import { copyRows, escapedRows, type KeyRange, plainRows } from "./copy_rows.ts";
import { readStream, type StreamRow, writeEvent } from "./state.ts";

/** A comparison may take so long. */
const STATEMENT_SECONDS = 3_600;

/** Waits for its reader longer than others do: etcd's pages may be slow. */
const BEGIN = `begin isolation level repeatable read read only;
  set local tcp_user_timeout to '5min';
  set local idle_in_transaction_session_timeout to 0;`;

/** The stream's row and the mirror's rows, in one snapshot, which two sessions share. */
export class MirrorSnapshot implements AsyncDisposable {
  readonly at: StreamRow;
  readonly #sessions: Session[];

  private constructor(at: StreamRow, sessions: Session[]) {
    this.at = at;
    this.#sessions = sessions;
  }

  static async open(postgres: PostgresOptions): Promise<MirrorSnapshot> {
    await using opened = new AsyncDisposableStack();
    const options = { ...postgres, statementSeconds: STATEMENT_SECONDS };
    const first = opened.use(await Session.open(options));
    const second = opened.use(await Session.open(options));
    await first.script(BEGIN);
    const at = await readStream(first);
    const [{ id }] = await first.run<{ id: string }>("export-snapshot", "select pg_export_snapshot() as id");
    await second.script(`${BEGIN} set transaction snapshot ${pg.escapeLiteral(id)}`);
    opened.move();
    return new MirrorSnapshot(at, [first, second]);
  }

  /** Rows whose key is without `\x`, in the order of their bytes; once. null: all rows. */
  plain(range: KeyRange | null): AsyncIterable<MirrorEntry[]> {
    return copyRows(this.#sessions[0], plainRows(range));
  }

  /** The other rows, in the order of their bytes in etcd; once. */
  escaped(range: KeyRange | null): AsyncIterable<MirrorEntry[]> {
    return copyRows(this.#sessions[1], escapedRows(range));
  }

  /** Gives both sessions up: who reads gets `reason`. */
  abandon(reason: Error): void {
    for (const session of this.#sessions) session.abandon(reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#sessions.map((session) => session[Symbol.asyncDispose]()));
  }
}

/**
 * repaired: what was still to be repaired is. outdated: too much has happened since the comparison to tell, nothing was
 * written. scanning: the mirror is at no revision now, nothing was written.
 */
export type Repair = { outcome: "repaired" | "outdated" | "scanning"; repaired: number };

/** Repairs keys that differed at `compared`, in one commit; the proof is with the function. */
export async function repair(
  session: Session,
  compared: { revision: number; timeline: number },
  columns: RepairColumns,
): Promise<Repair> {
  const [found] = await session.run<Repair>(
    "verify-repair",
    "select outcome, repaired from etcd_verify_repair($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    [
      compared.revision,
      compared.timeline,
      columns.keys,
      columns.values,
      columns.valueBytes,
      columns.revisions,
      columns.createRevisions,
      columns.versions,
      columns.leases,
      columns.there,
      columns.mirrored,
    ],
  );
  return found;
}

export interface Counts {
  missing: number;
  extra: number;
  different: number;
}

/** What a comparison of everything has left. */
export interface Verified extends Counts {
  revision: number;
  timeline: number;
  keys: number;
  repaired: number;
  seconds: number;
}

/** Keeps it for status and metrics. */
export async function recordVerified(session: Session, verified: Verified): Promise<void> {
  await session.run(
    "record-verified",
    `update etcd_sync_verify set verified_at = clock_timestamp(), revision = $1, timeline = $2, keys = $3, missing = $4,
       extra = $5, different = $6, repaired = $7, seconds = $8`,
    [
      verified.revision,
      verified.timeline,
      verified.keys,
      verified.missing,
      verified.extra,
      verified.different,
      verified.repaired,
      verified.seconds,
    ],
  );
}

/** Writes the audit's row of what was found. */
export async function recordDrift(
  session: Session,
  compared: { revision: number; timeline: number },
  detail: Counts & { keys: string[] },
): Promise<void> {
  await writeEvent(session, "drift", compared.timeline, { revision: compared.revision, detail });
}

/** Milliseconds until everything is to be compared again; a time that is still to come is of a clock that was put back. */
export async function verifyDue(session: Session, everyMs: number): Promise<number> {
  const [{ ms }] = await session.run<{ ms: number }>(
    "verify-due",
    `select $1::float8 - 1000 * extract(epoch from clock_timestamp()
       - least(coalesce(verified_at, installed_at), clock_timestamp()))::float8 as ms from etcd_sync_verify`,
    [everyMs],
  );
  return ms;
}
