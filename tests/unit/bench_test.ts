/** What the bench makes of its samples. */
import assert from "node:assert/strict";
import type { Row } from "../../bench/bench.ts";
import { type Results, rowText, withFigures } from "../../bench/report.ts";
import { figure, median, percentile, type Sample, summarize } from "../../bench/stats.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

const row: Row = {
  name: "drain",
  what: "rows until they are in etcd",
  rounds: 3,
  run: () => Promise.resolve(),
};

function sample(who: string, round: number, value: number | null, more: Partial<Sample> = {}): Sample {
  return { row: "drain", measure: "rate", unit: "rows/s", who, round, value, ...more };
}

const results: Results = {
  machine: {
    cores: 2,
    memoryGb: 8,
    disk: "ext4",
    kernel: "6.1",
    postgres: "17.0",
    etcd: "3.7.3",
    commit: "abc",
    measuredAt: "2026-01-01T00:00:00Z",
    programs: [{ name: "etcd-pg-sync", version: "1.0" }],
    missing: ["pg_etcd"],
  },
  samples: [
    sample("etcd-pg-sync", 1, 1_000, { memoryMb: 100, programCpu: 1, postgresCpu: 2 }),
    sample("etcd-pg-sync", 2, 3_000),
    sample("etcd-pg-sync", 3, 2_000),
    sample("peer", 1, 500),
    sample("peer", 2, null, { failed: "it ended with 1" }),
    sample("broken", 1, null, { failed: "not within 60 s" }),
  ],
};

Deno.test("the median of an even number is the mean of the two in the middle", strict, () => {
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([10, 9, 1]), 9);
});

Deno.test("a percentile is a sample, by nearest rank", strict, () => {
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
  assert.equal(percentile(hundred, 0.5), 50);
  assert.equal(percentile(hundred, 0.99), 99);
  assert.equal(percentile([7], 0.99), 7);
});

Deno.test("a summary has the spread, the ratio to ours, and what failed", strict, () => {
  const [ours, peer, broken] = summarize(results.samples);
  assert.deepEqual([ours.median, ours.least, ours.most, ours.rounds], [2_000, 1_000, 3_000, 3]);
  assert.deepEqual([peer.median, peer.ratio, peer.failures], [500, 0.25, ["it ended with 1"]]);
  assert.deepEqual([broken.median, broken.ratio, broken.failures], [undefined, undefined, [
    "not within 60 s",
  ]]);
});

Deno.test("the table says what failed in its cell, and who was left out", strict, () => {
  const text = rowText(row, results.samples);
  assert.match(text, /rate +etcd-pg-sync +2,000 rows\/s +1,000–3,000 +100 MB +1\.0 \+ 2\.0 s/);
  assert.match(text, /peer +500 rows\/s; failed: it ended with 1 +0\.25/);
  assert.match(text, /broken +failed: not within 60 s/);
  const page = withFigures("<!-- figures: deno task bench --docs -->\nold\n<!-- end -->", results, [row]);
  assert.match(page, /- pg_etcd: left out, it is not on PATH/);
  assert.match(page, /!\[drain\]\(plots\/drain\.svg\)/);
  assert.doesNotMatch(page, /old/);
});

Deno.test("the page of docs has a place for the figures", strict, () => {
  const page = Deno.readTextFileSync(new URL("../../docs/performance.md", import.meta.url));
  assert.match(withFigures(page, results, [row]), /### drain/);
});

Deno.test("a figure has three digits that count", strict, () => {
  assert.deepEqual([0, 40, 0.01234, 1.5, 99.95, 123.4, 12_345.6].map(figure), [
    "0",
    "40",
    "0.0123",
    "1.50",
    "100",
    "123",
    "12,346",
  ]);
});
