/** The judges themselves, on forged histories: a good one, and one for each way to break a promise. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  type Happened,
  type MarkerPut,
  type Move,
  type PromiseNumber,
  PROMISES,
  Replay,
  type Run,
  type Snapshot,
  validate,
  type WalEntry,
} from "../support/validators.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

/** etcd's log, made by writing to it. */
class Log {
  readonly events: Happened[] = [];
  readonly markers: MarkerPut[] = [];
  readonly #now = new Map<string, Happened>();
  revision = 10;

  /** One revision of somebody else. A value of null is a delete. */
  foreign(...writes: [key: string, value: string | null][]): number {
    this.revision++;
    for (const [key, value] of writes) this.#write(key, value);
    return this.revision;
  }

  /** One batch of the drain. */
  batch(batch: number, ...writes: [key: string, value: string | null][]): number {
    this.foreign(...writes);
    this.markers.push({ revision: this.revision, epoch: 1, holder: "h1", batch, bump: false });
    return this.revision;
  }

  bump(epoch: number, holder: string, batch: number): void {
    this.markers.push({ revision: ++this.revision, epoch, holder, batch, bump: true });
  }

  snapshot(revision = this.revision): Snapshot {
    const rows = [...new Replay(this.events).to(revision).keys.values()].map((event) => ({
      key: event.key,
      value: String(event.value),
      value_bytes: null,
      revision: event.mod_revision,
      create_revision: event.create_revision,
      version: event.version,
      lease: event.lease,
    }));
    return { state: "streaming", timeline: 1, revision, rows, fresh_at: this.revision * 1_000 };
  }

  #write(key: string, value: string | null): void {
    const before = this.#now.get(key);
    if (value === null && !before) return;
    const event: Happened = {
      type: value === null ? "delete" : "put",
      key,
      value: Buffer.from(value ?? ""),
      mod_revision: this.revision,
      create_revision: before?.create_revision ?? this.revision,
      version: (before?.version ?? 0) + 1,
      lease: "0",
    };
    this.events.push(event);
    if (value === null) this.#now.delete(key);
    else this.#now.set(key, event);
  }
}

function wal(
  id: number,
  transaction: string,
  key: string,
  value: string | null,
  more: Partial<WalEntry>,
): WalEntry {
  return {
    id,
    transaction,
    key,
    value: value === null ? null : Buffer.from(value),
    timeline: 1,
    revision: 0,
    seen_revision: 10,
    strict: false,
    status: "success",
    expected_revision: null,
    result_revision: null,
    error_message: null,
    ...more,
  };
}

/** A run in which all is well; each test breaks one thing of it. */
function good(): Run & {
  log: Log;
  moves: Move[];
  rows: Record<"chain" | "chained" | "pair" | "pair2" | "lost" | "cas" | "gone", WalEntry>;
} {
  const log = new Log();
  const snapshots: Snapshot[] = [];
  log.bump(1, "h1", 0);
  const a = log.foreign(["/a", "1"], ["/b", "1"]);
  snapshots.push(log.snapshot());
  const first = log.batch(1, ["/a", "2"]);
  const second = log.batch(2, ["/a", "3"], ["/c", "1"]);
  snapshots.push(log.snapshot(first), log.snapshot());
  log.foreign(["/d", "x"]);
  log.foreign(["/d", null]); // created and deleted again
  const fourth = log.batch(4, ["/d", "1"], ["/c", null], ["/none", null]);
  const foreign = log.foreign(["/b", "2"]);
  snapshots.push(log.snapshot());
  const rows = {
    chain: wal(1, "t1", "/a", "2", {
      revision: a,
      seen_revision: a,
      expected_revision: a,
      result_revision: first,
    }),
    // a writer that had not seen write 1: they are a chain
    chained: wal(2, "t2", "/a", "3", {
      revision: a,
      seen_revision: a,
      expected_revision: first,
      result_revision: second,
    }),
    pair: wal(3, "t3", "/c", "1", { expected_revision: 0, result_revision: second }),
    pair2: wal(4, "t4", "/d", "1", { expected_revision: 0, result_revision: fourth }),
    lost: wal(5, "t5", "/b", "mine", {
      revision: a,
      seen_revision: a,
      status: "conflict",
      result_revision: foreign,
      error_message: "Key '/b' has revision …",
    }),
    cas: wal(6, "t4", "/c", null, {
      revision: second,
      seen_revision: second,
      strict: true,
      expected_revision: second,
      result_revision: fourth,
    }),
    gone: wal(7, "t4", "/none", null, { expected_revision: 0, result_revision: fourth }),
  };
  const client = (at: number, ...ids: (keyof typeof rows)[]) => ({
    outcome: "committed" as const,
    began: at,
    ended: at + 1,
    writes: ids.map((id) => ({ id: rows[id].id, key: rows[id].key, value: rows[id].value })),
  });
  return {
    log,
    rows,
    events: log.events,
    markers: log.markers,
    snapshots,
    wal: Object.values(rows),
    clients: [
      { ...client(1, "chain"), waited: { id: 1, status: "success", result_revision: first } },
      client(3, "chained"),
      client(3, "pair"),
      client(5, "pair2", "cas", "gone"),
      client(7, "lost"),
    ],
    split: [],
    everyClient: true,
    // one second a revision, and the mirror follows at once
    acknowledged: log.events.map(({ mod_revision }) => ({
      revision: mod_revision,
      at: mod_revision * 1_000,
    })),
    moves: [
      move(7, 1, "h1", [7], 0, 0),
      move(7, 1, "h1", [7, 8, 9], 0, 0),
      move(8, 1, "h1", [7, 8, 9], 12, 0),
      move(9, 1, "h1", [7, 8, 9], 12, 1),
      move(7, 1, null, [], 12, 1),
      move(17, 2, "h2", [17], 12, 1),
      move(18, 2, "h2", [17], 14, 1), // before its first renewal
      move(17, 2, "h2", [17, 18, 19], 14, 1),
    ],
  };
}

function move(
  pid: number,
  epoch: number,
  holder: string | null,
  pids: number[],
  revision: number,
  batch: number,
): Move {
  return { pid, epoch, holder, pids, revision, batch, state: "streaming", timeline: 1 };
}

Deno.test("a good run breaks no promise", strict, () => {
  assert.deepEqual(validate(good()), []);
});

type Good = ReturnType<typeof good>;

/** What breaks, how to break it, and how the judge puts it. */
const bad: [PromiseNumber, string, (run: Good) => void, RegExp][] = [
  [1, "a row that etcd does not have", (run) => {
    run.snapshots[0].rows.push({ ...run.snapshots[0].rows[0], key: "/ghost" });
  }, /row '\/ghost': etcd has no such key there/],
  [
    1,
    "a key that the mirror lacks",
    (run) => void run.snapshots[1].rows.pop(),
    /key '\/b' of etcd is not in the mirror/,
  ],
  [1, "a row that is ahead of the checkpoint", (run) => {
    run.snapshots[1].rows = run.log.snapshot(run.rows.chained.result_revision!).rows;
  }, /row '\/a': revision is 14, etcd has 13/],
  [1, "a revision split over two commits", (run) => {
    run.snapshots[2].rows[0] = run.snapshots[1].rows[0];
  }, /row '\/a': revision is 13, etcd has 14/],
  [
    1,
    "another value at the right revision",
    (run) => void (run.snapshots[0].rows[0].value = "other"),
    /the value is not etcd's/,
  ],
  [1, "another version", (run) => void (run.snapshots[0].rows[0].version = 9), /version is 9, etcd has 1/],
  [
    1,
    "another create_revision",
    (run) => void (run.snapshots[0].rows[0].create_revision = 9),
    /create_revision is 9/,
  ],
  [1, "another lease", (run) => void (run.snapshots[0].rows[0].lease = "9"), /lease is 9, etcd has 0/],
  [
    1,
    "a checkpoint that goes back",
    (run) => void run.snapshots.splice(3, 0, run.snapshots[0]),
    /the checkpoint went back from 14 to 12/,
  ],
  [
    2,
    "a committed write without a row",
    (run) => void run.wal.splice(4, 1),
    /write 5 of key '\/b' was committed and has no row/,
  ],
  [
    2,
    "a write that was rolled back and is there",
    (run) => void (run.clients[4].outcome = "rolled-back"),
    /was rolled back and is in the WAL/,
  ],
  [2, "half of a transaction with a lost answer", (run) => {
    run.clients[4].outcome = "unknown";
    run.clients[4].writes.push({ id: 99, key: "/x", value: null });
  }, /1 of 2 writes are there/],
  [
    2,
    "a write that is never settled",
    (run) => void (run.rows.lost.status = "pending"),
    /write 5 of key '\/b' was never settled/,
  ],
  [
    2,
    "a write applied twice",
    (run) => void run.log.batch(5, ["/c", "1"]),
    /SQL wrote key '\/c' at 19, and no row says so/,
  ],
  [
    2,
    "a write that was applied and says conflict",
    (run) => void (run.rows.pair.status = "conflict"),
    /SQL wrote key '\/c' at 14/,
  ],
  [
    2,
    "success that etcd does not know",
    (run) => void (run.rows.pair.result_revision = 13),
    /write 3 says success at 13, etcd has no write of '\/c' there/,
  ],
  [
    2,
    "success at somebody else's revision",
    (run) => void (run.rows.chain.result_revision = 12),
    /write 1 says success at 12/,
  ],
  [
    2,
    "success of a delete in no batch",
    (run) => void (run.rows.gone.result_revision = 12),
    /where no batch was applied/,
  ],
  [2, "two writes that claim one event", (run) => {
    run.wal.push({ ...run.rows.pair, id: 8, transaction: "t8" });
  }, /writes 3 and 8 both say they are key '\/c' at 14/],
  [
    2,
    "a put where etcd has a delete",
    (run) => void (run.rows.cas.value = Buffer.from("x")),
    /etcd's event at 17 is none/,
  ],
  [
    2,
    "an event that never came",
    (run) => void run.log.foreign(["/late", "1"]),
    /etcd's last event at 19 never came/,
  ],
  [
    2,
    "a write that nobody has made",
    (run) => void run.wal.push(wal(99, "t99", "/b", "x", { status: "failed" })),
    /write 99 of key '\/b' is in the WAL, and no client has made it/,
  ],
  [
    3,
    "a transaction in two revisions",
    (run) => void (run.rows.chain.transaction = "t2"),
    /transaction t2 arrived in revisions 13, 14, and no event says/,
  ],
  [
    3,
    "a transaction of which a part arrived",
    (run) => void (run.rows.lost.transaction = "t1"),
    /arrived in part: 1 of 2 writes/,
  ],
  [3, "parts out of order", (run) => {
    run.split.push("t1");
    run.rows.chain.transaction = run.rows.chained.transaction = "t1";
    [run.rows.chain.id, run.rows.chained.id] = [2, 1];
  }, /the parts of transaction t1 arrived out of order: 14, 13/],
  [3, "a part that arrived after one that did not", (run) => {
    run.split.push("t1");
    run.rows.chain.transaction = run.rows.chained.transaction = "t1";
    run.rows.chain.status = "conflict";
  }, /a part of transaction t1 arrived after one that did not/],
  [
    2,
    "a write that etcd_wait has shown elsewhere",
    (run) => void (run.clients[2].waited = { id: 3, status: "success", result_revision: 13 }),
    /write 3 was waited for and told success at 13, and is success at 14/,
  ],
  [3, "a later transaction that overtakes", (run) => {
    [run.clients[0].began, run.clients[0].ended] = [8, 9];
  }, /write 1 began after write 4 had committed, and arrived before it: 13 < 17/],
  [4, "a blind overwrite of a foreign change", (run) => {
    const revision = run.log.batch(5, ["/b", "mine"]);
    Object.assign(run.rows.lost, { status: "success", result_revision: revision, expected_revision: 18 });
  }, /write 5 of '\/b' stands on 12 and arrived at 19, though somebody else changed at 18/],
  [4, "a foreign delete under a chain", (run) => {
    const gone = run.log.foreign(["/a", null]);
    const revision = run.log.batch(5, ["/a", "4"]);
    run.wal.push(
      wal(8, "t8", "/a", "4", {
        revision: 12,
        seen_revision: 12,
        expected_revision: 0,
        result_revision: revision,
      }),
    );
    assert.equal(gone, 19);
  }, /write 8 of '\/a' stands on 12 and arrived at 20, though somebody else changed at 19/],
  [4, "compare-and-set over another SQL writer", (run) => {
    run.rows.chained.strict = true;
  }, /write 2 of '\/a' stands on 12 and arrived at 14, though the key changed at 13/],
  [
    4,
    "an expectation that did not hold",
    (run) => void (run.rows.chained.expected_revision = 12),
    /expected 12 and arrived on 13/,
  ],
  [4, "SQL writers that conflict", (run) => {
    run.wal.push(
      wal(8, "t8", "/a", "x", { revision: 12, seen_revision: 12, status: "conflict", result_revision: 13 }),
    );
  }, /transaction t8 says conflict, and nobody in etcd changed one of its keys/],
  [
    5,
    "other bytes than the client gave",
    (run) => void (run.clients[0].writes[0].value = Buffer.of(0xff)),
    /has other bytes in etcd than its writer gave/,
  ],
  [
    5,
    "another key than the client gave",
    (run) => void (run.clients[0].writes[0].key = "/\xff"),
    /write 1 was of key '\/\xff', its row is of '\/a'/,
  ],
  [5, "a text in value_bytes", (run) => {
    const row = run.snapshots.at(-1)!.rows[0];
    Object.assign(row, { value: null, value_bytes: Buffer.from(row.value!) });
  }, /the value of '\/a' is in the wrong column/],
  [
    5,
    "both columns",
    (run) => void (run.snapshots.at(-1)!.rows[0].value_bytes = Buffer.of(1)),
    /has both of value and value_bytes, or none/,
  ],
  [6, "a batch of a leader that lost its place", (run) => {
    run.log.bump(2, "h2", 4);
    run.log.batch(5, ["/b", "x"]);
  }, /epoch 1 wrote batch 5 in the place of epoch 2/],
  [6, "a bump of an older epoch", (run) => {
    run.log.bump(3, "h3", 4);
    run.log.bump(2, "h2", 4);
  }, /epoch 2 took the place of epoch 3/],
  [
    6,
    "two leaders of one epoch",
    (run) => void run.log.bump(1, "h2", 4),
    /epoch 1 took the place of epoch 1/,
  ],
  [
    6,
    "a batch that is sent again",
    (run) => void run.log.batch(4, ["/b", "x"]),
    /batch 4 came after batch 4/,
  ],
  [
    6,
    "a checkpoint moved by a session of the last holder",
    (run) => void run.moves.push(move(8, 2, "h2", [17, 18, 19], 15, 1)),
    /session 8 moved revision from 14 to 15, and is none of the holder's \(epoch 2\)/,
  ],
  [
    6,
    "a batch claimed when nobody holds the place",
    (run) => void run.moves.splice(5, 0, move(9, 1, null, [], 12, 2)),
    /session 9 moved batch from 1 to 2/,
  ],
  [
    6,
    "an epoch that goes back",
    (run) => void run.moves.push(move(7, 1, "h1", [7, 8, 9], 14, 1)),
    /in PostgreSQL epoch 1 came after epoch 2/,
  ],
  [
    6,
    "two holders of one epoch in PostgreSQL",
    (run) => void run.moves.push(move(27, 2, "h3", [27], 14, 1)),
    /in PostgreSQL two holders had epoch 2/,
  ],
  [
    7,
    "a mirror that says it is fresh and stands still",
    (run) => void (run.snapshots[0].fresh_at = 14_500),
    /the mirror stood at 12 and said it was fresh, 500 ms after etcd had 14/,
  ],
];

for (const [promise, what, breakIt, text] of bad) {
  Deno.test(`promise ${promise} is broken by ${what}`, strict, () => {
    const run = good();
    breakIt(run);
    const found = validate(run).filter((violation) => violation.promise === promise);
    assert.ok(
      found.some((violation) => text.test(violation.text)),
      `none of ${JSON.stringify(validate(run), null, 1)}`,
    );
    for (const violation of found) {
      assert.ok(
        violation.text.startsWith(`promise ${promise}, "${PROMISES[promise]}", is broken: `),
        violation.text,
      );
    }
  });
}

Deno.test(
  "what is no violation: a scan's mirror, a split in order, a doubtful write, an unknown that is whole",
  strict,
  () => {
    const run = good();
    run.snapshots.unshift({ ...run.snapshots[0], state: "bootstrap", rows: [] });
    // one that says it is behind, one that the test has set back, one without the cold keys
    run.snapshots[0].fresh_at = 12_000;
    run.snapshots.push(
      { ...run.snapshots[1], setBack: true },
      {
        ...run.snapshots.at(-1)!,
        without: "/b",
        rows: run.snapshots.at(-1)!.rows.filter(({ key }) => key !== "/b"),
      },
    );
    run.split.push("t1");
    run.rows.chain.transaction = run.rows.chained.transaction = "t1";
    run.clients[1].outcome = "unknown";
    run.everyClient = false;
    run.log.bump(1, "h1", 4);
    run.wal.push(
      wal(8, "t8", "/a", "x", {
        revision: 12,
        status: "conflict",
        error_message: "It may have been applied: …",
      }),
    );
    assert.deepEqual(validate(run), []);
  },
);

Deno.test("what etcd_retry queues again has a new place in the order", strict, () => {
  const run = good();
  [run.clients[0].began, run.clients[0].ended] = [8, 9];
  run.rows.chain.retry_count = 1;
  assert.deepEqual(validate(run), []);
});
