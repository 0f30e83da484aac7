/** Answers of the commands that compare: lines for people; the same as JSON. */
import type { Field } from "../core/compare.ts";
import type { Format } from "./options.ts";
import { countOf, type Found, type ShownDifference, type Verdict } from "../verify.ts";

/** How the three kinds are called. */
export type Words = Record<ShownDifference["kind"], string>;
const WORDS: Words = { missing: "missing", extra: "extra", different: "different" };

/** Lines that name the differences, the first of them. */
export function differenceLines(found: Found, words = WORDS): string[] {
  const lines = found.shown.map((one) => `  ${words[one.kind].padEnd(9)}  ${one.key}  ${details(one)}`);
  const more = countOf(found) - found.shown.length;
  if (more > 0) lines.push(`  … and ${more} more`);
  return lines;
}

function details({ kind, etcd, mirror, fields }: ShownDifference): string {
  if (kind === "missing") return `only etcd has it, revision ${etcd!.revision}`;
  if (kind === "extra") return `only the mirror has it, revision ${mirror!.revision}`;
  return fields.map((field) => `${field}: ${told(field, etcd![field], mirror![field])}`).join("; ");
}

function told(field: Field, etcd: number | string, mirror: number | string): string {
  if (field === "timeline") return `${mirror} in the mirror, the stream is in ${etcd}`;
  if (field !== "value") return `${etcd} in etcd, ${mirror} in the mirror`;
  const bytes = many(Number(etcd), "byte");
  return `${bytes} in etcd, ${etcd === mirror ? "others" : mirror} in the mirror`;
}

/** "1 difference", "3 differences". */
export function many(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

export function verdictLines(verdict: Verdict): string[] {
  const { keys, revision, seconds, repaired, left } = verdict;
  const found = countOf(verdict);
  const what = found === 0 ? "the mirror is equal" : many(found, "difference");
  const lines = [`compared ${many(keys, "key")} of etcd at revision ${revision} in ${seconds} s: ${what}`];
  lines.push(...differenceLines(verdict));
  if (repaired > 0) lines.push(`repaired ${many(repaired, "row")}`);
  if (found > 0 && countOf(left) === 0) lines.push("compared again: the mirror is equal");
  return lines;
}

/** For scripts; the names stay. */
export function verdictJson(verdict: Verdict): Record<string, unknown> {
  const { revision, timeline, keys, missing, extra, different, repaired, left, seconds, shown } = verdict;
  return {
    equal: countOf(left) === 0,
    revision,
    timeline,
    keys,
    missing,
    extra,
    different,
    repaired,
    left: countOf(left),
    seconds,
    differences: shown,
  };
}

export function print(format: Format, json: () => unknown, text: () => string[]): void {
  console.log(format === "json" ? JSON.stringify(json()) : text().join("\n"));
}
