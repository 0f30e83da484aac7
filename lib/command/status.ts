/** `status`: how a stream stands, and what to do. */
import type { Command } from "commander";
import { type Flags as SettingFlags, readTarget } from "../config.ts";
import { screen } from "../core/screen.ts";
import type { Status } from "../core/status.ts";
import { sleep, stopSignal } from "../lifecycle.ts";
import { StatusReader, statusTarget } from "../status.ts";
import { answer, connectionOptions, type Format, formatOption } from "./options.ts";

const WATCH_MS = 1_000;

interface Flags extends SettingFlags {
  format: Format;
  watch?: boolean;
}

export function addStatus(program: Command): void {
  const command = program.command("status")
    .description("show how the stream stands and what to do; ends with 0 only where it is healthy");
  connectionOptions(command)
    .addOption(formatOption())
    .option("--watch", "look again every second, until SIGINT")
    .action(run);
}

async function run(flags: Flags): Promise<void> {
  await using reader = new StatusReader(statusTarget(readTarget(flags)));
  const status = flags.watch ? await watch(reader, flags.format) : await reader.read();
  if (!flags.watch) answer(flags.format, status, screen(status).trimEnd());
  Deno.exitCode = status.exit_code;
}

/** The last one. On a terminal each covers the one before; elsewhere they follow one another, JSON on a line each. */
async function watch(reader: StatusReader, format: Format): Promise<Status> {
  const signal = stopSignal();
  for (;;) {
    const status = await reader.read();
    if (format === "json") console.log(JSON.stringify(status));
    else if (Deno.stdout.isTerminal()) console.log(overwriting(screen(status)));
    else console.log(screen(status));
    await sleep(WATCH_MS, signal);
    if (signal.aborted) return status;
  }
}

/** From the upper left corner, each line to its end, and nothing of the last screen below: no flicker. */
function overwriting(text: string): string {
  return `\x1b[H${text.trimEnd().replaceAll("\n", "\x1b[K\n")}\x1b[K\n\x1b[J`;
}
