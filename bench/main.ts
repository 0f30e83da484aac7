/**
 * What the sync reaches, beside the limits of its servers and beside what people use instead, all in one run.
 *
 *   deno task bench                            every row; takes hours
 *   deno task bench batches writers            these rows
 *   deno task bench --quick                    whether the bench works; its figures mean nothing
 *   deno task bench --from a.json --docs       no measurement: the page, from what was measured
 */
import { Command, InvalidArgumentError } from "commander";
import process from "node:process";
import manifest from "../deno.json" with { type: "json" };
import { defaultSearch } from "../lib/embedded/embedded.ts";
import { Bench, type Row } from "./bench.ts";
import { findPeers } from "./peers.ts";
import { ours, type Sync } from "./program.ts";
import { headline, type Machine, type Results, rowText, withFigures } from "./report.ts";
import { ROWS } from "./rows/all.ts";
import { diskKind, run, type Servers, startServers } from "./servers.ts";
import { OURS, type Sample } from "./stats.ts";

interface Flags {
  quick?: boolean;
  rounds?: number;
  binary?: string;
  json?: string;
  plots?: string;
  from?: string[];
  docs?: boolean;
  list?: boolean;
}

const PAGE = "docs/performance.md";
const PLOTS = "docs/plots";

const command = new Command("bench")
  .argument("[row...]", "only these rows")
  .option("--quick", "small sizes and one round: whether the bench works, no figures")
  .option("--rounds <n>", "rounds of each row, in place of its own number", integer)
  .option("--binary <path>", "the compiled program, in place of the tree")
  .option("--json <file>", "write machine and samples to this file")
  .option("--plots <dir>", "draw a plot of each row into this folder")
  .option("--docs", `write the figures into ${PAGE}, and the plots to ${PLOTS}`)
  .option(
    "--from <file>",
    "measure nothing, take what --json has written; of several, a row of a later one replaces it",
    (file: string, before: string[] = []) => [...before, file],
  )
  .option("--list", "names of the rows")
  .exitOverride()
  .configureOutput({ outputError: () => {} });

function integer(text: string): number {
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text);
  throw new InvalidArgumentError(`wanted an integer from 1 to 9999, got '${text}'`);
}

function chosen(names: string[]): Row[] {
  for (const name of names) {
    if (!ROWS.some((row) => row.name === name)) {
      throw new Error(`Cannot measure '${name}': wanted a row of --list`);
    }
  }
  return ROWS.filter(({ name }) => names.length === 0 || names.includes(name));
}

async function measure(rows: Row[], flags: Flags, signal: AbortSignal): Promise<Results> {
  const peers = await findPeers(defaultSearch().path);
  const binary = flags.binary && await readable(flags.binary, Deno.realPath);
  const syncs = [ours(binary, manifest.version), ...peers.found];
  const samples: Sample[] = [];
  let machine: Machine | undefined;
  let servers: Servers | undefined;
  try {
    for (const row of rows) {
      // Quick ones share their servers, as starting them is most of the time
      if (!flags.quick) await servers?.[Symbol.asyncDispose]();
      if (!flags.quick || !servers) servers = await startServers(signal);
      if (!machine) {
        const missing = servers.etcdctl ? peers.missing : [...peers.missing, "etcdctl"];
        machine = await describe(servers, syncs, missing);
        console.log(headline({ machine, samples }).join("\n"));
      }
      const rounds = flags.quick ? 1 : flags.rounds ?? row.rounds;
      const record = (sample: Sample) => {
        samples.push(sample);
        if (!flags.quick) tell(sample);
        // at once, as a run of hours may be ended
        if (flags.json) Deno.writeTextFileSync(flags.json, JSON.stringify({ machine, samples }, null, 1));
      };
      const began = performance.now();
      await row.run(new Bench(row, rounds, flags.quick ?? false, servers, syncs, signal, record));
      console.log(
        flags.quick ? quickLine(row, samples, performance.now() - began) : `\n${rowText(row, samples)}`,
      );
    }
  } finally {
    await servers?.[Symbol.asyncDispose]();
  }
  return { machine: machine!, samples };
}

/** Where the run is; it takes long. */
function tell({ row, round, who, measure, value, unit, failed }: Sample): void {
  console.error(
    `${row}, round ${round}: ${measure}, ${who}: ${failed ?? `${value!.toPrecision(3)} ${unit}`}`,
  );
}

function quickLine(row: Row, samples: Sample[], ms: number): string {
  const failed = samples.filter((sample) => sample.row === row.name && sample.failed);
  const lines = failed.map(({ who, measure, failed }) => `\n  ${who}, ${measure}: ${failed}`);
  return `${row.name}: ${
    failed.length === 0 ? `runs (${(ms / 1_000).toFixed(1)} s)` : `failed${lines.join("")}`
  }`;
}

async function describe(servers: Servers, syncs: Sync[], missing: string[]): Promise<Machine> {
  const { embedded } = servers;
  const memory = /MemTotal:\s+(\d+)/.exec(await Deno.readTextFile("/proc/meminfo"))!;
  return {
    cores: navigator.hardwareConcurrency,
    memoryGb: Math.round(Number(memory[1]) / 1024 ** 2),
    disk: await diskKind(),
    kernel: await run("uname", ["-r"]),
    postgres: embedded.postgresVersion,
    etcd: embedded.etcdVersion,
    commit: await run("git", ["describe", "--always", "--dirty"]).catch(() => "unknown"),
    measuredAt: new Date().toISOString(),
    programs: syncs.map(({ name, version }) => ({ name, version })),
    missing,
  };
}

/** @throws {Error} that names the file */
async function readable(path: string, read: (path: string) => Promise<string>): Promise<string> {
  try {
    return await read(path);
  } catch (error) {
    throw new Error(`Cannot read '${path}': ${(error as Error).name}`);
  }
}

/** What earlier runs have written, as one. */
async function read(files: string[]): Promise<Results> {
  const all: Results[] = [];
  for (const file of files) all.push(JSON.parse(await readable(file, Deno.readTextFile)));
  const samples = all.reduce<Sample[]>((before, { samples }) => {
    const again = new Set(samples.map(({ row }) => row));
    return [...before.filter(({ row }) => !again.has(row)), ...samples];
  }, []);
  return { machine: all.at(-1)!.machine, samples };
}

/** @throws {Error} with what the drawing program said last */
async function drawPlots(samples: Sample[], folder: string): Promise<void> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--quiet",
      "--config",
      "bench/plots/deno.json",
      "--allow-all",
      "bench/plots/main.ts",
      folder,
    ],
    stdin: "piped",
  }).spawn();
  await new Blob([JSON.stringify(samples)]).stream().pipeTo(child.stdin);
  if (!(await child.status).success) throw new Error(`Cannot draw the plots into '${folder}'`);
}

async function main(): Promise<number> {
  await command.parseAsync(process.argv);
  const flags = command.opts<Flags>();
  const rows = chosen(command.args);
  if (flags.list) {
    for (const { name, what } of rows) console.log(`${name.padEnd(12)} ${what}`);
    return 0;
  }
  const interrupted = new AbortController();
  Deno.addSignalListener("SIGINT", () => interrupted.abort());
  const results = flags.from ? await read(flags.from) : await measure(rows, flags, interrupted.signal);
  if (flags.from) { for (const row of rows) console.log(rowText(row, results.samples)); }
  const shown = results.samples.filter(({ row }) => rows.some(({ name }) => name === row));
  if (flags.plots) await drawPlots(shown, flags.plots);
  if (flags.docs) {
    await drawPlots(shown, PLOTS);
    await Deno.writeTextFile(PAGE, withFigures(await Deno.readTextFile(PAGE), results, rows));
    await run(Deno.execPath(), ["fmt", "--quiet", PAGE]); // as the check wants it
  }
  // a peer may fail, we and the limits may not
  const peers = results.machine.programs.map(({ name }) => name).filter((name) => name !== OURS);
  return results.samples.some(({ who, failed }) => failed && !peers.includes(who)) ? 1 : 0;
}

try {
  Deno.exit(await main());
} catch (error) {
  const { exitCode, message } = error as Error & { exitCode?: number };
  if (exitCode !== 0) console.error(`bench: ${message.replace(/^error: /, "").replace(/\s*\n\s*/g, " ")}`);
  Deno.exit(exitCode ?? 1);
}
