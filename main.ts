/** etcd-pg-sync keeps a PostgreSQL database and an etcd keyspace in step, both ways. */
import process from "node:process";
import { Command } from "commander";
import { addExamples } from "./lib/command/examples.ts";
import { codeOf, EXIT, Fatal, kindOf, sentence } from "./lib/errors.ts";
import { versionText } from "./lib/version.ts";

export const program = new Command("etcd-pg-sync")
  .description("Keeps a PostgreSQL database and an etcd keyspace in step, both ways.")
  .option("-V, --version", "which build this is")
  .on("option:version", () => {
    console.log(`etcd-pg-sync ${versionText()}`);
    Deno.exit(EXIT.done);
  })
  .enablePositionalOptions() // else those of `config check` would be taken by `config`
  .exitOverride((error) => {
    throw error.exitCode === 0
      ? error
      : new Fatal("configuration", error.message.replace(/^error: /, "").replace(/\s*\n\s*/g, " "));
  })
  .configureOutput({ outputError: () => {} });

type Add = (program: Command) => void;

/** Only the command that is asked for is loaded, else all of them: loading everything takes longer than `status`. */
const COMMANDS: [names: string[], load: () => Promise<Add>][] = [
  [["start"], async () => (await import("./lib/command/start.ts")).addStart],
  [["status"], async () => (await import("./lib/command/status.ts")).addStatus],
  [["pause", "resume", "resync"], async () => (await import("./lib/command/control.ts")).addControl],
  [["validate"], async () => (await import("./lib/command/validate.ts")).addValidate],
  [["sync"], async () => (await import("./lib/command/sync.ts")).addSync],
  [["config"], async () => (await import("./lib/command/config.ts")).addConfig],
  [[], async () => (await import("./lib/command/completion.ts")).addCompletion], // it is told of all of them
];

/** @param asked the first word; where it is no command, all of them */
export async function addCommands(asked: string | undefined): Promise<void> {
  const one = COMMANDS.filter(([names]) => asked !== undefined && names.includes(asked));
  for (const [, load] of one.length > 0 ? one : COMMANDS) (await load())(program);
  addExamples(program);
}

if (import.meta.main) {
  process.noDeprecation = true; // Deno's own (punycode, by dns.lookup before 2.7): whoever runs this cannot mend it
  try {
    await addCommands(process.argv[2]);
    await program.parseAsync(process.argv);
    Deno.exit(); // with Deno.exitCode, where a command has set it
  } catch (error) {
    if ((error as { exitCode?: number }).exitCode === 0) Deno.exit(EXIT.done); // --help
    console.error(`etcd-pg-sync: ${sentence(error)} (${codeOf(error)})`);
    if (Deno.env.get("ETCD_PG_SYNC_STACK")) console.error(error);
    Deno.exit(EXIT[kindOf(error)]);
  }
}
