/**
 * Prints the manual page, from the commands, their examples and the table of settings:
 * `deno run --allow-read --allow-env --allow-sys deploy/release/man.ts | man -l -`.
 */
import type { Command, Option } from "commander";
import { addCommands, program } from "../../main.ts";
import { examplesOf } from "../../lib/command/examples.ts";
import { NAMES, setting } from "../../lib/settings/table.ts";
import { OTHER_VARIABLES } from "../../lib/settings/variables.ts";
import { version } from "../../lib/version.ts";

/** Of roff nothing is meant: no escapes, and no requests at the start of a line. */
const plain = (text: string) =>
  text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replaceAll(/^([.'])/gm, "\\&$1").replaceAll("…", "...");
const bold = (text: string) => `\\fB${plain(text)}\\fR`;
const entry = (head: string, text: string) => `.TP\n${head}\n${plain(text)}`;
const section = (title: string, ...lines: string[]) => [`.SH ${title}`, ...lines].join("\n");

function optionText(option: Option): string {
  return entry(bold(option.flags), option.description);
}

/** A command, then those below it. */
function commandText(command: Command, path: string[]): string[] {
  const help = command.createHelp();
  const below = help.visibleCommands(command).filter((child) => child.name() !== "help");
  const usage = help.commandUsage(command);
  const examples = examplesOf(path).flatMap((
    { what, line },
  ) => [`.PP`, plain(`${what}:`), ".RS 4", plain(line), ".RE"]);
  return [
    `.SS ${plain(path.join(" "))}`,
    `.B ${plain(usage)}`,
    ".PP",
    plain(`${command.description()}.`),
    ...help.visibleOptions(command).filter((option) => option.long !== "--help").map(optionText),
    ...examples,
    ...below.flatMap((child) => commandText(child, [...path, child.name()])),
  ];
}

await addCommands(undefined);
const commands = program.createHelp().visibleCommands(program).filter((command) => command.name() !== "help");
const date = new Date(Number(Deno.env.get("SOURCE_DATE_EPOCH") ?? Date.now() / 1_000) * 1_000);
console.log([
  `.TH ETCD\\-PG\\-SYNC 1 ${date.toISOString().slice(0, 10)} "etcd\\-pg\\-sync ${version}" "User Commands"`,
  section("NAME", "etcd\\-pg\\-sync \\- keep a PostgreSQL database and an etcd keyspace in step, both ways"),
  section("SYNOPSIS", ".B etcd\\-pg\\-sync", ".I command", ".RI [ options ]"),
  section(
    "DESCRIPTION",
    plain(
      "What etcd has is a view in SQL, with its history; what SQL writes to that view arrives in etcd, a transaction as one transaction. Any number of instances may run for a stream; one works, the others stand by.",
    ),
  ),
  section("COMMANDS", ...commands.flatMap((command) => commandText(command, [command.name()]))),
  section(
    "SETTINGS",
    plain(
      "Each is a flag, a variable ETCD_PG_SYNC_..., or a line of the YAML file that --config names. Flags count before variables, variables before the file.",
    ),
    ...NAMES.map((name) => {
      const { what, type, default: otherwise } = setting(name);
      const initial = otherwise === undefined ? "" : `; ${otherwise} if not given`;
      return entry(bold(name), `${what}: ${type.description}${initial}.`);
    }),
  ),
  section(
    "ENVIRONMENT",
    ...Object.entries(OTHER_VARIABLES).map(([name, what]) => entry(bold(name), `${what}.`)),
  ),
  section(
    "SIGNALS",
    entry(bold("SIGTERM, SIGINT"), "The batch in flight is finished; a second one exits at once."),
    entry(bold("SIGHUP"), "The file of settings and the files of secrets are read again."),
  ),
  section(
    "EXIT STATUS",
    ...[
      "done",
      "configuration",
      "connection",
      "permission",
      "runtime",
      "validate or sync has found differences",
      "status has found a stream that is not healthy",
    ].map((what, code) => entry(bold(String(code)), `${what}.`)),
  ),
  section(
    "FILES",
    entry("\\fI/etc/etcd\\-pg\\-sync/config.yaml\\fR", "The settings of the service etcd-pg-sync."),
    entry("\\fI/etc/etcd\\-pg\\-sync/NAME.yaml\\fR", "Those of the service etcd-pg-sync@NAME."),
  ),
  section("SEE ALSO", ".BR psql (1), etcdctl (1), systemctl (1)"),
].join("\n"));
