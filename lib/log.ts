/** Structured logs: text on a terminal, JSON elsewhere. */
import pino from "pino";
import pretty from "pino-pretty";

export type Log = pino.Logger;
export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export const LOG_FORMATS = ["auto", "text", "json"] as const;

export interface LogOptions {
  level: (typeof LOG_LEVELS)[number];
  format: (typeof LOG_FORMATS)[number];
}

/** Logs go to standard error; standard output is for answers. */
export function makeLog({ level, format }: LogOptions): Log {
  const terminal = Deno.stderr.isTerminal();
  const options: pino.LoggerOptions = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  };
  if (format === "json" || (format === "auto" && !terminal)) {
    return pino(options, pino.destination({ dest: 2, sync: true }));
  }
  return pino(
    options,
    pretty({
      destination: 2,
      sync: true,
      colorize: terminal,
      translateTime: "SYS:HH:MM:ss.l",
      ignore: "pid,hostname",
      singleLine: true,
    }),
  );
}
