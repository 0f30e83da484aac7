/** Flags of the commands, from the table of settings. What they say is read by lib/settings/read.ts. */
import { type Command, Option } from "commander";
import { type Name, NAMES, type Setting, setting, variableOf } from "../settings/table.ts";

/** What every command that connects takes. */
export function connectionOptions(command: Command): Command {
  command.option("-c, --config <file>", `YAML file of settings (env: ${variableOf("config")})`);
  return addOptions(command, "connection");
}

/** What a command takes that runs a stream. */
export function streamOptions(command: Command): Command {
  return addOptions(command, "stream");
}

function addOptions(command: Command, group: Setting["group"]): Command {
  for (const name of NAMES.filter((name) => setting(name).group === group)) command.addOption(option(name));
  return command;
}

/** Without default and variable of commander's own: who gave what would be lost. */
function option(name: Name): Option {
  const { short, takes, what, default: otherwise } = setting(name);
  const flags = `${short ? `-${short}, ` : ""}--${name}${takes ? ` <${takes}>` : ""}`;
  const notes = [...(otherwise ? [`default: ${otherwise}`] : []), `env: ${variableOf(name)}`];
  return new Option(flags, `${what} (${notes.join(", ")})`);
}

export type Format = "text" | "json";

/** `--format`, for a command's answer. */
export function formatOption(): Option {
  return new Option("--format <format>", "text or json").choices(["text", "json"]).default("text");
}

/** A command's answer, on standard output. */
export function answer(format: Format | undefined, json: unknown, text: string): void {
  console.log(format === "json" ? JSON.stringify(json, null, 2) : text);
}
