/** etcd-pg-sync keeps a PostgreSQL database and an etcd keyspace in step, both ways. */
import process from "node:process";
import { Command } from "commander";
import manifest from "./deno.json" with { type: "json" };
import { addControl } from "./lib/command/control.ts";
import { addStart } from "./lib/command/start.ts";
import { EXIT, Fatal, kindOf, sentence } from "./lib/errors.ts";

const program = new Command("etcd-pg-sync")
  .description("Keeps a PostgreSQL database and an etcd keyspace in step, both ways.")
  .version(manifest.version)
  .exitOverride((error) => {
    throw error.exitCode === 0
      ? error
      : new Fatal("configuration", error.message.replace(/^error: /, "").replace(/\s*\n\s*/g, " "));
  })
  .configureOutput({ outputError: () => {} });

addStart(program);
addControl(program);

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
