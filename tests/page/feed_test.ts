/** The page's feed: one look a second for all, none for nobody, and nobody is waited for. */
import assert from "node:assert/strict";
import { within } from "../../lib/lifecycle.ts";
import { Feed } from "../../lib/page/feed.ts";
import { Recorder } from "../../lib/page/recorder.ts";
import { Vitals } from "../../lib/telemetry/vitals.ts";
import { eventually } from "../support/eventually.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

/** A feed of numbered looks. */
function counted(resting = () => Promise.resolve()) {
  const looks: number[] = [];
  let rests = 0;
  const source = {
    look: () => Promise.resolve({ number: looks.push(performance.now()) }),
    rest: async () => {
      await resting();
      rests++;
    },
  };
  const recorder = new Recorder(new Vitals());
  const feed = new Feed(source, recorder);
  return {
    feed,
    looks,
    rests: () => rests,
    async [Symbol.asyncDispose]() {
      await feed[Symbol.asyncDispose]();
      recorder[Symbol.dispose]();
    },
  };
}

const decoder = new TextDecoder();

async function read(reader: ReadableStreamDefaultReader<Uint8Array>) {
  const { value } = await reader.read();
  const [, view, samples] = /^event: view\ndata: (.*)\n\nevent: samples\ndata: (.*)\n\n$/.exec(
    decoder.decode(value),
  )!;
  return { number: JSON.parse(view).number as number, samples: JSON.parse(samples) as number[][] };
}

Deno.test(
  "listeners that come and go cause one look a second, and none when they are gone",
  strict,
  async () => {
    await using counter = counted();
    const { feed, looks, rests } = counter;
    const readers = [feed.open()!.getReader(), feed.open()!.getReader()];
    await Promise.all(readers.map(read));
    for (let i = 0; i < 50; i++) await feed.open()!.cancel();
    assert.equal(looks.length, 1);
    await read(readers[0]);
    for (const reader of readers) await reader.cancel();
    await eventually(() => rests() === 1);
    const before = looks.length;
    await read(feed.open()!.getReader());
    assert.equal(looks.length, before + 1);
    for (let i = 1; i < looks.length; i++) {
      assert.ok(looks[i] - looks[i - 1] >= 999, `${looks[i] - looks[i - 1]} ms`); // timers count in whole ones
    }
  },
);

Deno.test(
  "one that does not read is skipped, and gets what it has missed with its next frame",
  strict,
  async () => {
    await using counter = counted();
    const [slow, quick] = [counter.feed.open()!.getReader(), counter.feed.open()!.getReader()];
    let last = await read(quick);
    const samples = [...last.samples];
    while (samples.length < 3) {
      last = await read(quick);
      samples.push(...last.samples);
    }
    assert.equal((await read(slow)).number, 1, "what was kept for it is one frame, the first");
    const next = await read(slow);
    assert.ok(next.number > last.number);
    assert.deepEqual(next.samples.slice(0, samples.length), samples);
  },
);

Deno.test("one that comes while the last session is closed is served", strict, async () => {
  const [closing, closed] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  await using counter = counted(() => {
    closing.resolve();
    return closed.promise;
  });
  const first = counter.feed.open()!.getReader();
  await read(first);
  await first.cancel();
  await closing.promise;
  const second = counter.feed.open()!.getReader();
  closed.resolve();
  assert.equal((await within(5_000, read(second))).number, 2);
});

Deno.test("a hundred listen, and no more", strict, async () => {
  await using counter = counted();
  for (let i = 0; i < 100; i++) assert.ok(counter.feed.open());
  assert.equal(counter.feed.open(), null);
});
