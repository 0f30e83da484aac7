/** etcd-pg-sync keeps a PostgreSQL database and an etcd keyspace in step, both ways. */
import process from "node:process";
import { Command, Option } from "commander";
import manifest from "./deno.json" with { type: "json" };
import { environmentName, readConfig, readLog, type StartFlags } from "./lib/config.ts";
import { startEmbedded } from "./lib/embedded/embedded.ts";
import { EXIT, Fatal, kindOf, sentence } from "./lib/errors.ts";
import { guardTransport } from "./lib/etcd/guard.ts";
import { firstSteps } from "./lib/first_steps.ts";
import { makeLog } from "./lib/log.ts";
import { start } from "./lib/start.ts";

interface Flags extends StartFlags {
  embedded?: boolean;
  embeddedDir?: string;
}

const program = new Command("etcd-pg-sync")
  .description("Keeps a PostgreSQL database and an etcd keyspace in step, both ways.")
  .version(manifest.version)
  .exitOverride((error) => {
    throw error.exitCode === 0
      ? error
      : new Fatal("configuration", error.message.replace(/^error: /, "").replace(/\s*\n\s*/g, " "));
  })
  .configureOutput({ outputError: () => {} });

program.command("start")
  .description("mirror etcd into PostgreSQL, and write what SQL writes to etcd, until stopped")
  .addOption(option("-p, --postgres-dsn <dsn>", "postgres://user@host:port/database"))
  .addOption(option("-e, --etcd-dsn <dsn>", "etcd://[user:pass@]host:port[,host:port]/prefix"))
  .addOption(option("--stream <name>", "name of the stream", "default"))
  .addOption(option("--schema <name>", "schema that holds it", "public"))
  .option("--embedded", "start a PostgreSQL and an etcd of its own")
  .option("--embedded-dir <folder>", "keep their data here between runs; implies --embedded")
  .addOption(option("--max-txn-ops <n>", "operations that etcd takes in one transaction", "128"))
  .addOption(
    option("--oversize <what>", "a transaction that etcd cannot take at once: split or refuse", "split"),
  )
  .addOption(option("--max-deletes <n>", "deletes in one transaction without a confirmation", "1000"))
  .addOption(
    option("--rescan-after <revisions>", "backlog from which a scan is the way back, or never", "20000"),
  )
  .addOption(
    option("--fresh-timeout <duration>", "silence after which a watch is given up, such as 10s", "10s"),
  )
  .addOption(
    option(
      "--wal-retention <duration>",
      "how long writes that arrived stay in etcd_wal, such as 12h, or never",
      "1d",
    ),
  )
  .addOption(option("--history-retention <duration>", "how long history goes back, or never", "30d"))
  .addOption(
    option(
      "--event-retention <duration>",
      "how long events, and writes that did not arrive, stay, or never",
      "90d",
    ),
  )
  .addOption(
    option("--wal-limit <rows>", "writes that may wait for etcd; more are refused, or never", "1000000"),
  )
  .addOption(option("--log-level <level>", "debug, info, warn or error", "info"))
  .addOption(option("--log-format <format>", "auto (text on a terminal, else json), text or json", "auto"))
  .action(run);

/** An option that can stand in the environment, as ETCD_PG_SYNC_ and its name. */
function option(flags: string, description: string, value?: string): Option {
  const made = new Option(flags, description).default(value);
  return made.env(environmentName(made.long!.slice(2)));
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

/** The first signal lets the batch in flight commit, the second exits at once. */
function stopSignal(log: ReturnType<typeof makeLog>): AbortSignal {
  const stop = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(name, () => {
      if (stop.signal.aborted) Deno.exit(EXIT.runtime);
      log.info({ signal: name }, "stopping; the batch in flight is finished, a second signal exits at once");
      stop.abort();
    });
  }
  return stop.signal;
}

if (import.meta.main) {
  try {
    await program.parseAsync(process.argv);
    Deno.exit(EXIT.done);
  } catch (error) {
    if ((error as { exitCode?: number }).exitCode === 0) Deno.exit(EXIT.done); // --help, --version
    console.error(`etcd-pg-sync: ${sentence(error)}`);
    if (Deno.env.get("ETCD_PG_SYNC_STACK")) console.error(error);
    Deno.exit(EXIT[kindOf(error)]);
  }
}
