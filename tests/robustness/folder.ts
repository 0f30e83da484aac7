/** What a failed round leaves: its history, which can be judged again, and the logs of all who took part. */
import { Buffer } from "node:buffer";
import { join } from "node:path";
import type { Mirrored, Run, Snapshot } from "../support/validators.ts";
import type { Site } from "./site.ts";

const HISTORY = "history.json";

export interface Failure {
  /** The line that runs it again. */
  again: string;
  violations: string[];
  run?: Run;
  site: Site;
}

/** Writes the folder, and returns its path. */
export async function writeFailure({ again, violations, run, site }: Failure): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "etcd-pg-sync-robustness-" });
  const write = (name: string, text: string) => Deno.writeTextFile(join(folder, name), text);
  await write("violations.txt", `${again}\n\n${violations.join("\n")}\n`);
  if (run) await write(HISTORY, encodeRun(run));
  for (const { options, output } of site.instances) {
    await write(`program-${options.name}.log`, output.join("\n"));
  }
  await copy(site.postgres.log, join(folder, "postgres.log"));
  await copy(site.etcd.log, join(folder, "etcd.log"));
  return folder;
}

export async function readHistory(folder: string): Promise<Run> {
  return decodeRun(await Deno.readTextFile(join(folder, HISTORY)));
}

async function copy(from: string, to: string): Promise<void> {
  await Deno.writeTextFile(to, await Deno.readTextFile(from).catch(() => ""));
}

/** Snapshots share most of their rows: each row stands in it once, and snapshots name them by number. */
export function encodeRun(run: Run): string {
  const numbers = new Map<Mirrored, number>();
  const number = (row: Mirrored) => {
    if (!numbers.has(row)) numbers.set(row, numbers.size);
    return numbers.get(row)!;
  };
  const snapshots = run.snapshots.map((snapshot) => ({ ...snapshot, rows: snapshot.rows.map(number) }));
  return JSON.stringify({ ...run, snapshots, rows: [...numbers.keys()] });
}

export function decodeRun(text: string): Run {
  const { rows, ...run } = JSON.parse(text, revive) as Run & { rows: Mirrored[] };
  const snapshots = run.snapshots as unknown as (Omit<Snapshot, "rows"> & { rows: number[] })[];
  return {
    ...run,
    snapshots: snapshots.map((snapshot) => ({ ...snapshot, rows: snapshot.rows.map((at) => rows[at]) })),
  };
}

/** JSON.stringify writes a Buffer so. */
function revive(_key: string, value: unknown): unknown {
  const { type, data } = (value ?? {}) as { type?: string; data?: number[] };
  return type === "Buffer" && Array.isArray(data) ? Buffer.from(data) : value;
}
