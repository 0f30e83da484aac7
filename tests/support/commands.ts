/** The program's commands and their flags, as `--help` tells of them. */
import { runProgram } from "./program.ts";

/** By the words of the command, such as `config check`. */
export type Commands = Map<string, { help: string; flags: Set<string> }>;

export async function readCommands(): Promise<Commands> {
  const commands: Commands = new Map();
  const waiting: string[][] = [[]];
  for (let path = waiting.shift(); path; path = waiting.shift()) {
    const { stdout: help } = await runProgram([...path, "--help"]);
    const [, list = ""] = help.split("\nCommands:\n");
    const below = [...list.split("\n\n")[0].matchAll(/^ {2}([a-z-]+)/gm)].map(([, name]) => name);
    waiting.push(...below.filter((name) => name !== "help").map((name) => [...path!, name]));
    const options = help.split("\nExamples:\n")[0];
    const flags = [...options.matchAll(/^ {2}(?:(-\w), )?(--[a-z-]+)/gm)].flatMap(([, short, long]) =>
      short ? [short, long] : [long]
    );
    commands.set(path.join(" "), { help, flags: new Set(flags) });
  }
  return commands;
}
