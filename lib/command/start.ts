/** `start`: runs a stream until it is stopped. */
import type { Command } from "commander";
import { configOf, logOf, readConfig } from "../config.ts";
import { startEmbedded } from "../embedded/embedded.ts";
import { Fatal } from "../errors.ts";
import { firstSteps } from "../first_steps.ts";
import { stopSignal } from "../lifecycle.ts";
import { makeLog } from "../log.ts";
import { type Flags as SettingFlags, readSettings } from "../settings/read.ts";
import { start } from "../start.ts";
import { connectionOptions, streamOptions } from "./options.ts";

interface Flags extends SettingFlags {
  embedded?: boolean;
  embeddedDir?: string;
}

export function addStart(program: Command): void {
  const command = program.command("start")
    .description("mirror etcd into PostgreSQL, and write what SQL writes to etcd, until stopped");
  connectionOptions(command)
    .option("--embedded", "start a PostgreSQL and an etcd of its own")
    .option("--embedded-dir <folder>", "keep their data here between runs; implies --embedded");
  streamOptions(command).action(run);
}

async function run(flags: Flags): Promise<void> {
  const env = Deno.env.toObject();
  let settings = readSettings(flags, env); // once: the file may be a pipe
  const log = makeLog(logOf(settings));
  const signal = stopSignal(log);
  await using opened = new AsyncDisposableStack();
  const embedded = flags.embedded || flags.embeddedDir;
  if (embedded) {
    checkMayRun();
    const servers = opened.use(await startEmbedded({ dir: flags.embeddedDir, log, signal }));
    settings = {
      ...settings,
      "postgres-dsn": ofEmbedded(servers.postgresDsn),
      "etcd-dsn": ofEmbedded(servers.etcdDsn),
    };
    console.log(firstSteps(servers));
  }
  // at a terminal SIGHUP is its end, and that of the servers that were started for it
  await start(configOf(settings, env), log, signal, embedded ? undefined : () => readConfig(flags));
  log.info("stopped");
}

/** The binary may start no other program, which only a try of it needs. */
function checkMayRun(): void {
  if (Deno.permissions.querySync({ name: "run" }).state === "granted") return;
  throw new Fatal(
    "configuration",
    "Cannot start '--embedded': this build has no right to start other programs; give '--postgres-dsn' and '--etcd-dsn', or run it from its sources by 'deno task start --embedded'",
  );
}

function ofEmbedded(dsn: string) {
  return { text: dsn, value: dsn, source: { kind: "flag", name: "--embedded" } } as const;
}
