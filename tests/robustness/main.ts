/**
 * The robustness suite: random traffic on both sides, random faults, and all promises judged over what was recorded.
 *
 *   deno task robustness --minutes 30 --seed 7     the same seed makes the same traffic and faults; their timing is the machine's
 *   deno task robustness --judge FOLDER            judges again what a failed round has left
 *   deno task robustness --mutation NAME           the program without one of its guards: must end in violations
 *   deno task robustness --list                    names of faults and mutations
 */
import { Command } from "commander";
import process from "node:process";
import { validate } from "../support/validators.ts";
import { fromFileUrl } from "../support/paths.ts";
import { FAULTS } from "./faults.ts";
import { readHistory } from "./folder.ts";
import { faultsFor, mutated, mutations } from "./mutation.ts";
import { faultLine, runSuite, type Totals } from "./suite.ts";

interface Flags {
  minutes?: string;
  rounds?: string;
  seed?: string;
  binary?: string;
  postgresBin?: string;
  faults?: string;
  mutation?: string;
  judge?: string;
  list?: boolean;
}

const command = new Command("robustness")
  .option("--minutes <n>", "begin rounds for so long (10, where no --rounds is given)")
  .option("--rounds <n>", "so many rounds")
  .option("--seed <n>", "a random one if not given")
  .option("--binary <path>", "the compiled program, in place of the tree")
  .option("--postgres-bin <dir>", "the folder of another PostgreSQL")
  .option("--faults <names>", "only these, separated by commas; a part of a name takes all that have it")
  .option("--mutation <name>", "without one of the program's guards, until a violation is found")
  .option("--judge <folder>", "judge again what a failed round has left")
  .option("--list", "names of faults and mutations");

function integer(name: string, text: string): number {
  if (/^\d+$/.test(text)) return Number(text);
  fail(`Cannot read '${name}': wanted an integer, got '${text}'`);
}

function fail(message: string): never {
  console.error(message);
  Deno.exit(1);
}

function chosen(names: string | undefined): string[] {
  const all = Object.keys(FAULTS);
  if (names === undefined) return all;
  return names.split(",").filter((name) => name !== "").flatMap((part) => {
    const found = part in FAULTS ? [part] : all.filter((name) => name.includes(part));
    if (found.length === 0) fail(`Cannot inject '${part}': wanted names of --list`);
    return found;
  });
}

async function judge(folder: string): Promise<number> {
  const violations = validate(await readHistory(folder));
  for (const { text } of violations) console.log(text);
  console.log(`${violations.length} violations`);
  return violations.length ? 1 : 0;
}

async function run(flags: Flags): Promise<number> {
  const seed = flags.seed ? integer("seed", flags.seed) : Math.floor(Math.random() * 2 ** 31);
  const rounds = flags.rounds ? integer("rounds", flags.rounds) : undefined;
  const minutes = flags.minutes ? integer("minutes", flags.minutes) : rounds ? undefined : 10;
  const given = process.argv.slice(2).filter((arg, at, all) => arg !== "--seed" && all[at - 1] !== "--seed");
  const again = ["deno task robustness", ...given, "--seed", seed].join(" ");
  console.log(`seed ${seed}; again: ${again}`);
  await using tree = flags.mutation ? await mutated(flags.mutation) : undefined;
  const totals = await runSuite({
    seed,
    rounds,
    minutes,
    roundMs: [25_000, 40_000],
    faults: chosen(flags.faults ?? (flags.mutation && await faultsFor(flags.mutation))),
    build: { root: tree?.root ?? fromFileUrl("../.."), binary: flags.binary },
    postgresBin: flags.postgresBin,
    again,
    say: (line) => console.log(line),
    untilFailure: flags.mutation !== undefined,
  });
  return tellTotals(totals, again, flags.mutation);
}

function tellTotals(totals: Totals, again: string, mutation: string | undefined): number {
  console.log(
    `in all: faults ${
      faultLine(totals.faults)
    }; ${totals.transactions} SQL transactions, ${totals.snapshots} snapshots, ` +
      `${totals.events} events, at most ${totals.megabytes} MB, ${totals.violations} violations`,
  );
  console.log(`again: ${again}`);
  if (mutation) console.log(`mutation ${mutation}: ${totals.failed ? "found" : "NOT FOUND"}`);
  console.log(`${totals.passed} passed, ${totals.failed} failed`);
  // of a mutation, violations are what is wanted
  return (mutation ? totals.failed === 0 : totals.failed > 0 || totals.passed === 0) ? 1 : 0;
}

const flags = command.parse(process.argv).opts<Flags>();
if (flags.list) {
  console.log(`faults: ${Object.keys(FAULTS).join(", ")}\nmutations: ${(await mutations()).join(", ")}`);
} else Deno.exit(flags.judge ? await judge(flags.judge) : await run(flags));
