/** `start`: runs a stream until it is stopped. */
import type { Command } from "commander";
import { readConfig, readLog, type StartFlags } from "../config.ts";
import { startEmbedded } from "../embedded/embedded.ts";
import { sentence } from "../errors.ts";
import { guardTransport } from "../etcd/guard.ts";
import { firstSteps } from "../first_steps.ts";
import { stopSignal } from "../lifecycle.ts";
import { makeLog } from "../log.ts";
import { start } from "../start.ts";
import { connectionOptions, streamOptions } from "./options.ts";

interface Flags extends StartFlags {
  embedded?: boolean;
  embeddedDir?: string;
}

export function addStart(program: Command): void {
  const command = program.command("start")
    .description("mirror etcd into PostgreSQL, and write what SQL writes to etcd, until stopped");
  connectionOptions(command)
    .option(
      "--one-way",
      "mirror etcd only: nothing is written there, and read rights on the prefix are enough",
    )
    .option("--embedded", "start a PostgreSQL and an etcd of its own")
    .option("--embedded-dir <folder>", "keep their data here between runs; implies --embedded");
  streamOptions(command).action(run);
}

async function run(flags: Flags): Promise<void> {
  const log = makeLog(readLog(flags));
  const signal = stopSignal(log);
  guardTransport((error) => log.debug({ error: sentence(error) }, "a connection to etcd broke"));
  await using opened = new AsyncDisposableStack();
  if (flags.embedded || flags.embeddedDir) {
    const servers = opened.use(await startEmbedded({ dir: flags.embeddedDir, log, signal }));
    flags = { ...flags, postgresDsn: servers.postgresDsn, etcdDsn: servers.etcdDsn };
    console.log(firstSteps(servers));
  }
  await start(readConfig(flags), log, signal);
  log.info("stopped");
}
