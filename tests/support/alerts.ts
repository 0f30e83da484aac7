/**
 * Which alerts of deploy/prometheus would fire if it went on as the pages of a real run say: their samples become the
 * series of a test of promtool, minutes of them in no time.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import type { Sample } from "./pages.ts";
import { fromFileUrl } from "./paths.ts";
import { promtool } from "./promtool.ts";
import { tempDir } from "./servers.ts";

export const RULES = fromFileUrl("../../deploy/prometheus/etcd-pg-sync.rules.yml");
const MINUTES = 40;

/** What one instance said, at first and at last; `last` is undefined where it does not answer any more. */
export interface Scraped {
  first: Sample[];
  last: Sample[] | undefined;
}

/** After so many minutes these alerts fire, and no others. */
export async function assertAlerts(instances: Scraped[], names: string[], minutes = MINUTES): Promise<void> {
  await using folder = await tempDir();
  const file = join(folder.path, "test.yml");
  await Deno.writeTextFile(file, testOf(instances, names, minutes));
  const { code, said } = await promtool(["test", "rules", file]);
  assert.equal(code, 0, said);
}

function testOf(instances: Scraped[], names: string[], minutes: number): string {
  const series = instances.flatMap((scraped, i) => seriesOf(scraped, `i${i}`));
  const samples = names.map((name) => `          - {labels: '{alertname="${name}"}', value: 1}`);
  return [
    `rule_files: ['${RULES}']`,
    "evaluation_interval: 15s",
    "tests:",
    "  - interval: 1m",
    "    input_series:",
    ...series.map(([name, values]) => `      - {series: '${name}', values: '${values}'}`),
    "    promql_expr_test:",
    `      - expr: 'count by (alertname) (ALERTS{alertstate="firing"})'`,
    `        eval_time: ${minutes}m`,
    ...(samples.length ? ["        exp_samples:", ...samples] : ["        exp_samples: []"]),
  ].join("\n");
}

function seriesOf({ first, last }: Scraped, instance: string): [string, string][] {
  const id = ({ name, labels }: Sample) =>
    `${name}{${
      [...Object.entries({ ...labels, job: "etcd-pg-sync", instance })].map(([k, v]) => `${k}="${v}"`).join(
        ",",
      )
    }}`;
  const before = new Map(first.map((sample) => [id(sample), sample.value]));
  const up: [string, string] = [
    `up{job="etcd-pg-sync",instance="${instance}"}`,
    `1 ${last ? 1 : 0}x${MINUTES}`,
  ];
  if (!last) {
    return [up, ...first.map((sample): [string, string] => [id(sample), `${number(sample.value)} stale`])];
  }
  return [
    up,
    ...last.map((sample): [string, string] => [
      id(sample),
      `${before.has(id(sample)) ? number(before.get(id(sample))!) : "_"} ${
        goesOn(sample, before.get(id(sample)))
      }`,
    ]),
  ];
}

/** An age that has grown by more than a proof a second allows goes on to grow; the rest stays. */
function goesOn({ name, value }: Sample, before = 0): string {
  if (name.endsWith("_timestamp_seconds")) return `${number(value - Date.now() / 1_000)}x${MINUTES}`; // the test begins at 0
  const grows = name.endsWith("_age_seconds") && value - before > 4;
  return value === Infinity
    ? Array(MINUTES).fill("Inf").join(" ")
    : `${number(value)}${grows ? "+60" : ""}x${MINUTES}`;
}

function number(value: number): string {
  return value === Infinity ? "Inf" : value.toFixed(3);
}
