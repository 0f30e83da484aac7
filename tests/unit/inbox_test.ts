import assert from "node:assert/strict";
import fc from "fast-check";
import { Inbox } from "../../lib/core/inbox.ts";
import type { Event } from "../../lib/core/words.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const PLENTY = 1 << 30;

function event(revision: number, size = 0): Event {
  const kv = {
    key: new Uint8Array(1),
    value: new Uint8Array(size),
    createRevision: revision,
    modRevision: revision,
    version: 1,
    lease: 0n,
  };
  return { tombstone: false, kv };
}
const revisions = (batch: { events: Event[] } | null) => batch?.events.map(({ kv }) => kv.modRevision);

Deno.test("events up to the position are dropped, and the batch ends at the last revision", strict, () => {
  const inbox = new Inbox(5, false);
  inbox.events([event(4), event(5), event(6), event(6), event(8)], false);
  const batch = inbox.take(PLENTY);
  assert.deepEqual([revisions(batch), batch?.to], [[6, 6, 8], 8]);
  assert.equal(inbox.take(PLENTY), null);
});

Deno.test("a fragment's last revision is not there before what closes it", strict, () => {
  const inbox = new Inbox(0, false);
  const taken = () => {
    const batch = inbox.take(PLENTY);
    return batch && [revisions(batch), batch.to];
  };
  inbox.events([event(2)], true);
  assert.equal(taken(), null);
  inbox.progress(2, 0); // cannot be believed while a revision is open
  assert.equal(taken(), null);
  inbox.events([event(2), event(3), event(4)], true); // a later revision closes it
  assert.deepEqual(taken(), [[2, 2, 3], 3]);
  inbox.events([event(4)], true);
  assert.equal(taken(), null);
  inbox.events([event(4)], false); // so does a response that is no fragment
  assert.deepEqual(taken(), [[4, 4, 4], 4]);
});

Deno.test("the bytes of a response in fragments are bounded as any others", strict, () => {
  const inbox = new Inbox(0, false);
  for (let revision = 1; revision <= 10; revision++) inbox.events([event(revision, 1_000)], true);
  assert.ok(inbox.bytes >= 9_000);
  assert.equal(inbox.take(5_000)?.to, 4);
});

Deno.test("progress moves the position, after the events before it", strict, () => {
  const inbox = new Inbox(1, false);
  inbox.events([event(2), event(3)], false);
  inbox.progress(7, 0);
  assert.equal(inbox.take(1)?.to, 2);
  assert.deepEqual(inbox.take(1), { events: [event(3)], bytes: 1, to: 7 });
  assert.equal(inbox.isEmpty, true);
});

Deno.test("progress without news is news: it is fresh", strict, () => {
  const inbox = new Inbox(7, false);
  inbox.progress(7, 0);
  assert.deepEqual(inbox.take(PLENTY), { events: [], bytes: 0, to: 7 });
  assert.equal(inbox.take(PLENTY), null);
});

Deno.test("an older progress notification does not move the position back", strict, () => {
  const inbox = new Inbox(1, false);
  inbox.events([event(9)], false);
  inbox.progress(5, 0);
  assert.equal(inbox.take(PLENTY)?.to, 9);
  inbox.progress(5, 0);
  assert.equal(inbox.take(PLENTY), null);
  assert.equal(inbox.position, 9);
});

Deno.test(
  "careful progress: one counts when the next comes a second later, with no event in between",
  strict,
  () => {
    const inbox = new Inbox(1, true);
    inbox.progress(5, 0);
    inbox.progress(5, 900);
    assert.equal(inbox.take(PLENTY), null);
    inbox.events([event(4)], false); // the event that the notifications had overtaken
    inbox.progress(6, 1_100);
    assert.equal(inbox.take(PLENTY)?.to, 4);
    inbox.progress(6, 2_000);
    assert.equal(inbox.take(PLENTY), null);
    inbox.progress(8, 2_100); // others move the revision on: what was notified a second ago is proved
    assert.equal(inbox.take(PLENTY)?.to, 6);
  },
);

Deno.test("the budget of bytes never splits a revision, and lets at least one through", strict, () => {
  const inbox = new Inbox(0, false);
  inbox.events(
    [event(1, 100), event(1, 100), event(1, 100), event(2, 10), event(3, 10), event(4, 500)],
    false,
  );
  const taken = [inbox.take(200), inbox.take(200), inbox.take(200)].map(revisions);
  assert.deepEqual(taken, [[1, 1, 1], [2, 3], [4]]);
  assert.equal(inbox.bytes, 0);
});

Deno.test(
  "whatever arrives in whatever pieces, each batch holds whole revisions, in order, each once",
  strict,
  () => {
    const piece = fc.record({
      more: fc.boolean(),
      size: fc.integer({ min: 1, max: 4 }),
      progress: fc.boolean(),
    });
    const history = fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 30 }); // events of each revision
    fc.assert(
      fc.property(
        history,
        fc.array(piece, { maxLength: 40 }),
        fc.integer({ min: 1, max: 400 }),
        (counts, pieces, budget) => {
          const all = counts.flatMap((count, i) => Array.from({ length: count }, () => event(i + 1)));
          const inbox = new Inbox(0, false);
          const seen: number[] = [];
          let to = 0;
          const take = () => {
            for (let batch = inbox.take(budget); batch; batch = inbox.take(budget)) {
              assert.ok(batch.to >= to);
              const inBatch = revisions(batch)!;
              for (const revision of new Set(inBatch)) {
                assert.equal(
                  inBatch.filter((other) => other === revision).length,
                  counts[revision - 1],
                  "split",
                );
              }
              assert.ok(inBatch.every((revision) => revision > to && revision <= batch.to));
              seen.push(...inBatch);
              to = batch.to;
              assert.ok(all.every(({ kv }) => kv.modRevision > to || seen.includes(kv.modRevision)), "lost");
            }
          };
          let at = 0;
          for (const { more, size, progress } of pieces) {
            // etcd splits a revision only over fragments
            const end = Math.min(at + size, all.length);
            const whole = end === all.length || all[end].kv.modRevision !== all[end - 1]?.kv.modRevision;
            if (end > at) inbox.events(all.slice(at, end), more || !whole);
            at = end;
            if (progress && whole && at > 0) inbox.progress(all[at - 1].kv.modRevision, 0);
            take();
          }
          inbox.events(all.slice(at), false);
          take();
          assert.deepEqual(seen, all.map(({ kv }) => kv.modRevision));
          assert.equal(inbox.bytes, 0);
        },
      ),
    );
  },
);
