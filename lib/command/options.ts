/** Options of the commands: each can stand in the environment too. */
import { type Command, Option } from "commander";
import { environmentName } from "../config.ts";

/** Flag, what it is for, default. */
type Described = [flags: string, description: string, value?: string];

/** What every command that connects takes. */
const CONNECTION: Described[] = [
  ["-p, --postgres-dsn <dsn>", "postgres://user@host:port/database"],
  ["-e, --etcd-dsn <dsn>", "etcd://[user:pass@]host:port[,host:port]/prefix"],
  ["--stream <name>", "name of the stream", "default"],
  ["--schema <name>", "schema that holds it", "public"],
  ["--log-level <level>", "debug, info, warn or error", "info"],
  ["--log-format <format>", "auto (text on a terminal, else json), text or json", "auto"],
];

/** What the writer is held to. */
const STREAM: Described[] = [
  ["--max-txn-ops <n>", "operations that etcd takes in one transaction", "128"],
  ["--oversize <what>", "a transaction that etcd cannot take at once: split or refuse", "split"],
  ["--max-deletes <n>", "deletes in one transaction without a confirmation", "1000"],
  ["--rescan-after <revisions>", "backlog from which a scan is the way back, or never", "20000"],
  ["--fresh-timeout <duration>", "silence after which a watch is given up, such as 10s", "10s"],
  [
    "--wal-retention <duration>",
    "how long writes that arrived stay in etcd_wal, such as 12h, or never",
    "1d",
  ],
  ["--history-retention <duration>", "how long history goes back, or never", "30d"],
  [
    "--event-retention <duration>",
    "how long events, and writes that did not arrive, stay, or never",
    "90d",
  ],
  [
    "--listen <host:port>",
    "serve /metrics, /healthz, /readyz and /status there; ':9187' is this machine's own",
  ],
  ["--wal-limit <rows>", "writes that may wait for etcd; more are refused, or never", "1000000"],
];

export function connectionOptions(command: Command): Command {
  return addOptions(command, CONNECTION);
}

export function streamOptions(command: Command): Command {
  return addOptions(command, STREAM);
}

function addOptions(command: Command, options: Described[]): Command {
  for (const [flags, description, value] of options) {
    const option = new Option(flags, description).default(value);
    command.addOption(option.env(environmentName(option.long!.slice(2))));
  }
  return command;
}
