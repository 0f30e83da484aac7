/** etcd-pg-sync keeps a PostgreSQL database and an etcd keyspace in step, both ways. */
import process from "node:process";
import { Command } from "commander";
import manifest from "./deno.json" with { type: "json" };
import { addCompletion } from "./lib/command/completion.ts";
import { addConfig } from "./lib/command/config.ts";
import { addExamples } from "./lib/command/examples.ts";
import { addControl } from "./lib/command/control.ts";
import { addStart } from "./lib/command/start.ts";
import { EXIT, Fatal, kindOf, sentence } from "./lib/errors.ts";

const program = new Command("etcd-pg-sync")
  .description("Keeps a PostgreSQL database and an etcd keyspace in step, both ways.")
  .version(manifest.version)
  .enablePositionalOptions() // else those of `config check` would be taken by `config`
  .exitOverride((error) => {
    throw error.exitCode === 0
      ? error
      : new Fatal("configuration", error.message.replace(/^error: /, "").replace(/\s*\n\s*/g, " "));
  })
  .configureOutput({ outputError: () => {} });

addStart(program);
addControl(program);
addConfig(program);
addCompletion(program);
addExamples(program);

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
