/**
 * The one state machine. Outcomes are named for what happened; stopping, standing by and backing off are no states.
 * The diagram in README.md is made from this table (`deno task diagram`).
 */

export const STATES = ["bootstrap", "streaming", "draining", "compaction-resync"] as const;
export type State = (typeof STATES)[number];

export const OUTCOMES = [
  /** The scan's last page is in, and the watch has passed its newest page. */
  "caught-up",
  /** Rows wait in the WAL. */
  "wal-waiting",
  /** No rows are left in the WAL. */
  "wal-empty",
  /** etcd has compacted what the watch would have to replay. */
  "history-lost",
  /** A scan is a shorter way back than the watch's backlog. */
  "far-behind",
  /** etcd's history is another one: restored, or another cluster. */
  "history-replaced",
] as const;
export type Outcome = (typeof OUTCOMES)[number];

/** null: the outcome cannot happen in that state. */
export const TRANSITIONS: Record<State, Record<Outcome, State | null>> = {
  "bootstrap": {
    "caught-up": "streaming",
    "wal-waiting": null,
    "wal-empty": null,
    "history-lost": "bootstrap",
    "far-behind": null,
    "history-replaced": "bootstrap",
  },
  "streaming": {
    "caught-up": null,
    "wal-waiting": "draining",
    "wal-empty": null,
    "history-lost": "compaction-resync",
    "far-behind": "compaction-resync",
    "history-replaced": "compaction-resync",
  },
  "draining": {
    "caught-up": null,
    "wal-waiting": null,
    "wal-empty": "streaming",
    "history-lost": "compaction-resync",
    "far-behind": "compaction-resync",
    "history-replaced": "compaction-resync",
  },
  "compaction-resync": {
    "caught-up": "streaming",
    "wal-waiting": null,
    "wal-empty": null,
    "history-lost": "compaction-resync",
    "far-behind": null,
    "history-replaced": "compaction-resync",
  },
};

/** The state after `outcome`. Throws where the table has none: a flow that reports it is wrong. */
export function next(state: State, outcome: Outcome): State {
  const to = TRANSITIONS[state][outcome];
  if (to === null) {
    throw new Error(`Cannot leave state '${state}' on '${outcome}': the machine has no such transition`);
  }
  return to;
}

/** Whether the mirror is at exactly one revision, so that readers can use it. */
export function isWhole(state: State): boolean {
  return state === "streaming" || state === "draining";
}

/** The table as a Mermaid state diagram. */
export function diagram(): string {
  const arrows = STATES.flatMap((from) => {
    const byTarget = Map.groupBy(
      OUTCOMES.filter((o) => TRANSITIONS[from][o] !== null),
      (o) => TRANSITIONS[from][o],
    );
    return [...byTarget].map(([to, outcomes]) => `  ${id(from)} --> ${id(to!)}: ${outcomes.join(", ")}`);
  });
  const names = STATES.filter((state) => id(state) !== state).map((state) =>
    `  state "${state}" as ${id(state)}`
  );
  return ["stateDiagram-v2", ...names, "  [*] --> bootstrap", ...arrows].join("\n");
}

/** Mermaid takes no hyphen in a state's id. */
function id(state: State): string {
  return state.replaceAll("-", "_");
}
