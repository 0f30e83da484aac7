/** Rounds, one after another: on one site for a few, then on a fresh one. */
import type { Build } from "../support/program.ts";
import { type Random, random } from "../support/random.ts";
import { writeFailure } from "./folder.ts";
import { Recorder } from "./recorder.ts";
import { dealt, faultLanes, type Lane } from "./lanes.ts";
import { playRound, type RoundResult } from "./round.ts";
import { Site } from "./site.ts";

export interface SuiteOptions {
  seed: number;
  /** Until when rounds begin: a number of them, or a length of time. */
  rounds?: number;
  minutes?: number;
  roundMs: [least: number, most: number];
  faults: string[];
  build: Build;
  postgresBin?: string;
  /** The line that runs it again. */
  again: string;
  say(line: string): void;
  /** Ends with the first round that fails. */
  untilFailure?: boolean;
}

export interface Totals {
  passed: number;
  failed: number;
  faults: Map<string, number>;
  transactions: number;
  snapshots: number;
  events: number;
  violations: number;
  megabytes: number;
}

const ROUNDS_A_SITE = 3;
/** Of one site after another. The mirror's pages begin with 10,000 keys: of 32,000 the third holds what the traffic writes, and is read ahead. */
const COLD_KEYS = [32_000, 0, 32_000, 500];

export async function runSuite(options: SuiteOptions): Promise<Totals> {
  const totals: Totals = {
    passed: 0,
    failed: 0,
    faults: new Map(),
    transactions: 0,
    snapshots: 0,
    events: 0,
    violations: 0,
    megabytes: 0,
  };
  const dice = random(options.seed);
  const end = performance.now() + (options.minutes ?? Infinity) * 60_000;
  const going = () =>
    totals.passed + totals.failed < (options.rounds ?? Infinity) && performance.now() < end &&
    !(options.untilFailure && totals.failed > 0);
  const lanes = faultLanes(options.faults).map((names) => dealt(names, dice.fork()));
  for (let site = 0; going(); site++) {
    const cold = COLD_KEYS[site % COLD_KEYS.length];
    await playSite(options, { dice: dice.fork(), lanes, cold }, going, totals);
  }
  return totals;
}

/** A few rounds on one site; a round that fails is its last. */
async function playSite(
  options: SuiteOptions,
  { dice, lanes, cold }: { dice: Random; lanes: Lane[]; cold: number },
  going: () => boolean,
  totals: Totals,
): Promise<void> {
  await using site = await Site.open({
    build: options.build,
    postgresBin: options.postgresBin,
    instances: dice.integer(2, 3),
    cold,
  });
  await using recorder = new Recorder(site);
  for (let i = 0; i < ROUNDS_A_SITE && going(); i++) {
    const random = dice.fork();
    const ms = random.integer(...options.roundMs);
    const before = { snapshots: recorder.taken, events: recorder.events, clients: recorder.clients.length };
    const result = await playRound(site, recorder, { random, ms, lanes });
    const counts = {
      snapshots: recorder.taken - before.snapshots,
      events: recorder.events - before.events,
      transactions: recorder.clients.length - before.clients,
    };
    add(totals, result, counts, site.memory.most);
    tell(options, result, counts, totals);
    recorder.forgetSnapshots();
    if (result.violations.length === 0) continue;
    const { again } = options;
    for (const line of result.violations.slice(0, 10)) options.say(`  ${line}`);
    await site.end();
    const folder = await writeFailure({ again, violations: result.violations, run: result.run, site });
    options.say(`  left in ${folder}; judge it again: deno task robustness --judge ${folder}`);
    options.say(`  again: ${again}`);
    return;
  }
}

interface Counts {
  snapshots: number;
  events: number;
  transactions: number;
}

function add(totals: Totals, { violations, faults }: RoundResult, counts: Counts, megabytes: number): void {
  totals[violations.length ? "failed" : "passed"]++;
  totals.violations += violations.length;
  totals.snapshots += counts.snapshots;
  totals.events += counts.events;
  totals.transactions += counts.transactions;
  totals.megabytes = Math.max(totals.megabytes, megabytes);
  for (const [name, count] of faults) totals.faults.set(name, (totals.faults.get(name) ?? 0) + count);
}

function tell(
  { seed, say }: SuiteOptions,
  { faults, run, violations, errors }: RoundResult,
  { transactions, snapshots, events }: Counts,
  { passed, failed, megabytes }: Totals,
): void {
  const status = (name: string) => run?.wal.filter((row) => row.status === name).length ?? 0;
  say(
    `round ${passed + failed}, seed ${seed}: faults ${faultLine(faults)}; ${transactions} SQL transactions ` +
      `(rows in all: ${status("success")} success, ${status("conflict")} conflict, ${
        status("failed")
      } failed), ` +
      `${errors} etcd calls failed, ${snapshots} snapshots, ${events} events, ${megabytes} MB; ` +
      `${violations.length} violations`,
  );
}

/** Names with their counts. */
export function faultLine(faults: Map<string, number>): string {
  return [...faults].sort().map(([name, count]) => `${name} ${count}`).join(", ") || "none";
}
