/** What an instance knows of itself, for its pages and metrics. The loop and the flows write it, an assignment each. */
import type { Server } from "../errors.ts";
import { isWhole, type State } from "../machine.ts";

/** `taking`: it has the place, and looks at etcd before it leads. `failing`: it has no place, and tries again. */
export type Role = "starting" | "standby" | "taking" | "leader" | "failing" | "stopping";
export const ROLES: Role[] = ["starting", "standby", "taking", "leader", "failing", "stopping"];

/** Where the stream of a leader stands: the row as it last wrote it, and what operators ask for. */
export type Leading = { state: State; revision: number };
export type Paused = { readonly pausedAt: Date | null };

/** What this process has done since it began, in events of etcd (and keys that a scan has read), and in writes from SQL. */
export interface Totals {
  mirrored: number;
  success: number;
  conflict: number;
  failed: number;
}

/** Times are those of `performance.now()`, in milliseconds. */
export class Vitals {
  /** When the loop was last heard of: it waits for nothing without a limit. */
  beatAt = performance.now();
  at: Leading | null = null;
  control: Paused | null = null;
  /** Leader: all that etcd had acknowledged at that time is in the mirror (lib/freshness.ts). */
  provenAt: number | null = null;
  /** Leader: etcd's last answer to the proof's linearizable read. */
  etcd: { revision: number; answeredAt: number } | null = null;
  /** The scan under way. */
  scan: { keys: number; remaining: number } | null = null;
  readonly totals: Totals = { mirrored: 0, success: 0, conflict: 0, failed: 0 };
  #role: Role = "starting";
  #since = performance.now();
  /** Why it is failing, in words. */
  #trouble: string | null = null;
  #failed: Server | null = null;

  get role(): Role {
    return this.#role;
  }

  /** Since when it has this role. */
  get since(): number {
    return this.#since;
  }

  get trouble(): string | null {
    return this.#trouble;
  }

  /** The server that failed it last, since it led. */
  get failed(): Server | null {
    return this.#failed;
  }

  beat(): void {
    this.beatAt = performance.now();
  }

  standsBy(): void {
    this.#become("standby");
  }

  takes(): void {
    const trouble = this.#trouble;
    this.#become("taking");
    this.#trouble = trouble;
  }

  leads(at: Leading, control: Paused): void {
    this.#become("leader");
    this.#failed = null;
    this.at = at;
    this.control = control;
  }

  fails(trouble: string, server: Server | null): void {
    this.#become("failing");
    this.#trouble = trouble;
    this.#failed = server;
  }

  stops(): void {
    this.#become("stopping");
  }

  #become(role: Role): void {
    this.beat();
    if (this.#role === "stopping") return;
    if (role !== this.#role) this.#since = performance.now();
    this.#role = role;
    this.at = null;
    this.control = null;
    this.provenAt = null;
    this.etcd = null;
    this.scan = null;
    this.#trouble = null;
  }
}

export interface Verdict {
  good: boolean;
  /** One line for the person who looks. */
  why: string;
}

/**
 * No wait of the loop is longer: PostgreSQL has 30 s for a statement and 5 s to say so, a host 10 s for a connection. Longer
 * waits (migrations, repairs) are made beside a lease that is renewed every second.
 */
const LOOP_STANDS_MS = 120_000;
/** A standby asks PostgreSQL for the place four times a second. */
const STANDBY_SILENCE_MS = 10_000;

/** Whether the process lives, and its loop runs: one that does not wants a restart. */
export function alive(vitals: Vitals, now = performance.now()): Verdict {
  const silent = now - vitals.beatAt;
  if (vitals.role === "starting" || silent <= LOOP_STANDS_MS) return { good: true, why: "the loop runs" };
  return { good: false, why: `the loop has not been heard of for ${seconds(silent)}` };
}

/** Whether this instance does what it is there for: leads a mirror that is fresh, or stands by for it. */
export function ready(vitals: Vitals, freshTimeoutMs: number, now = performance.now()): Verdict {
  const no = (why: string) => ({ good: false, why });
  switch (vitals.role) {
    case "starting":
      return no("starting: not connected yet");
    case "stopping":
      return no("stopping");
    case "failing":
      return no(`neither leader nor standby for ${seconds(now - vitals.since)}: ${vitals.trouble}`);
    case "standby": {
      const silent = now - vitals.beatAt;
      if (silent > STANDBY_SILENCE_MS) {
        return no(`standby: PostgreSQL has not answered for ${seconds(silent)}`);
      }
      return { good: true, why: "standby: another instance is the writer" };
    }
    case "taking": {
      const before = vitals.trouble === null ? "" : `; before: ${vitals.trouble}`;
      return no(`taking the writer's place for ${seconds(now - vitals.since)}${before}`);
    }
    case "leader":
      return leaderReady(vitals, freshTimeoutMs, now);
  }
}

function leaderReady(
  { at, control, scan, provenAt, etcd }: Vitals,
  freshTimeoutMs: number,
  now: number,
): Verdict {
  const pausedAt = control!.pausedAt;
  if (pausedAt !== null) {
    return {
      good: false,
      why: `leader: paused since ${pausedAt.toISOString()}, until 'etcd-pg-sync resume'`,
    };
  }
  if (!isWhole(at!.state)) {
    const progress = scan ? `, ${scan.keys} keys read, ${scan.remaining} left` : "";
    return { good: false, why: `leader: the mirror is not whole (${at!.state}${progress})` };
  }
  if (provenAt === null) return { good: false, why: "leader: not proved to be fresh yet" };
  const age = now - provenAt;
  if (age <= freshTimeoutMs) return { good: true, why: `leader: fresh as of ${seconds(age)} ago` };
  const silent = etcd === null ? Infinity : now - etcd.answeredAt;
  const cause = silent > freshTimeoutMs
    ? "etcd does not answer linearizable reads"
    : "etcd answers, the mirror does not reach its revision";
  return {
    good: false,
    why: `leader: last proved to be fresh ${seconds(age)} ago, limit ${seconds(freshTimeoutMs)}: ${cause}`,
  };
}

function seconds(ms: number): string {
  return `${ms < 10_000 ? (ms / 1_000).toFixed(1) : Math.round(ms / 1_000)} s`;
}
