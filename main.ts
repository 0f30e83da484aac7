/** etcd-pg-sync keeps a PostgreSQL database and an etcd keyspace in step, both ways. */
import process from "node:process";
import { Command } from "commander";
import manifest from "./deno.json" with { type: "json" };
import { readConfig, readLog, type StartFlags } from "./lib/config.ts";
import { startEmbedded } from "./lib/embedded/embedded.ts";
import { EXIT, Fatal, kindOf, sentence } from "./lib/errors.ts";
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
  .showHelpAfterError("(--help shows what there is)")
  .exitOverride((error) => {
    throw error.exitCode === 0 ? error : new Fatal("configuration", error.message.replace(/^error: /, ""));
  })
  .configureOutput({ outputError: () => {} });

program.command("start")
  .description("mirror etcd into PostgreSQL, and write what SQL writes to etcd, until stopped")
  .option(
    "-p, --postgres-dsn <dsn>",
    "postgres://user@host:port/database (POSTGRES_DSN)",
    env("POSTGRES_DSN"),
  )
  .option(
    "-e, --etcd-dsn <dsn>",
    "etcd://[user:pass@]host:port[,host:port]/prefix (ETCD_DSN)",
    env("ETCD_DSN"),
  )
  .option("--stream <name>", "name of the stream (STREAM)", env("STREAM") ?? "default")
  .option("--schema <name>", "schema that holds it (SCHEMA)", env("SCHEMA") ?? "public")
  .option("--embedded", "start a PostgreSQL and an etcd of its own")
  .option("--embedded-dir <folder>", "keep their data here between runs; implies --embedded")
  .option(
    "--max-txn-ops <n>",
    "operations of one etcd transaction, as the server allows (MAX_TXN_OPS)",
    env("MAX_TXN_OPS") ?? "128",
  )
  .option(
    "--oversize <what>",
    "a transaction that etcd cannot take at once: split or refuse (OVERSIZE)",
    env("OVERSIZE") ?? "split",
  )
  .option(
    "--max-deletes <n>",
    "deletes in one transaction without a confirmation (MAX_DELETES)",
    env("MAX_DELETES") ?? "1000",
  )
  .option(
    "--rescan-after <revisions>",
    "backlog from which a scan is the way back, or never (RESCAN_AFTER)",
    env("RESCAN_AFTER") ?? "20000",
  )
  .option("--log-level <level>", "debug, info, warn or error (LOG_LEVEL)", env("LOG_LEVEL") ?? "info")
  .option("--log-format <format>", "auto, text or json (LOG_FORMAT)", env("LOG_FORMAT") ?? "auto")
  .action(run);

function env(name: string): string | undefined {
  return Deno.env.get(`ETCD_PG_SYNC_${name}`) || undefined;
}

async function run(flags: Flags): Promise<void> {
  const log = makeLog(readLog(flags));
  const signal = stopSignal(log);
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
