/** etcd-pg-sync keeps a PostgreSQL database and an etcd keyspace in step, both ways. */
import process from "node:process";
import { Command } from "commander";
import manifest from "./deno.json" with { type: "json" };
import { addControl } from "./lib/command/control.ts";
import { addStart } from "./lib/command/start.ts";
import { addStatus } from "./lib/command/status.ts";
import { codeOf, EXIT, Fatal, kindOf, sentence } from "./lib/errors.ts";

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
addStatus(program);
addControl(program);

if (import.meta.main) {
  try {
    await program.parseAsync(process.argv);
    Deno.exit(); // with Deno.exitCode, where a command has set it
  } catch (error) {
    if ((error as { exitCode?: number }).exitCode === 0) Deno.exit(EXIT.done); // --help, --version
    console.error(`etcd-pg-sync: ${sentence(error)} (${codeOf(error)})`);
    if (Deno.env.get("ETCD_PG_SYNC_STACK")) console.error(error);
    Deno.exit(EXIT[kindOf(error)]);
  }
}
