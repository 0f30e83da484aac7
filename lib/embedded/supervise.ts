/**
 * Runs a server so that it ends with this process, however this process ends.
 *
 * ```
 * this process ──pipe──▶ sh (supervisor) ──▶ server
 * ```
 *
 * The supervisor reads the pipe. When it is closed, by stop() or by the kernel after `kill -9`, it ends the server:
 * gently, after `patience` seconds firmly, at last with SIGKILL. It stands in a session of its own, so a Ctrl-C in
 * the terminal reaches this process only, which stops the servers after its own work.
 */

import { join } from "node:path";
import type { Account } from "./account.ts";

const supervisor = `
home=$1 gentle=$2 firm=$3 patience=$4 throwaway=$5
shift 5
exec 3<&0 </dev/null
"$@" 3<&- >"$home/log" 2>&1 &
server=$!
trap '' HUP INT TERM
echo $server >"$home/pid"
(
  while read -r line <&3; do :; done
  kill -s $gentle $server
  while [ $patience -gt 0 ]; do sleep 1; patience=$((patience - 1)); done
  kill -s $firm $server
  sleep 5
  kill -s KILL $server
) 2>/dev/null &
watcher=$!
exec 3<&-
wait $server
code=$?
kill -s KILL $watcher
rm -f "$home/pid"
if [ -n "$throwaway" ]; then
  cd /
  rm -rf "$home"
  rm -f "$throwaway/lock"
  rmdir "$throwaway" 2>/dev/null
fi
exit $code
`;

export interface Supervised {
  /** The server's log, its pid file and its data stand in this folder */
  home: string;
  command: string[];
  /** Signals that end the server, the second one `patience` seconds after the first */
  gentle: "INT" | "TERM";
  firm: "QUIT" | "KILL";
  patience: number;
  account?: Account;
  /** The folder above `home`, when both are to be gone with the server */
  throwaway?: string;
}

/** A server and the supervisor that ends it. */
export interface Process extends AsyncDisposable {
  pid: number;
  /** Settles when the server has ended, with its exit code */
  exited: Promise<number>;
  /** Ends the server, by this signal straight to it, or else in the gentle way, and waits for the end */
  stop(signal?: Deno.Signal): Promise<void>;
}

/** Starts the supervisor, and returns when it has started the server. */
export async function supervise(options: Supervised): Promise<Process> {
  const child = spawn(options);
  const pipe = child.stdin;
  const status = child.status;
  const ended = (async () => {
    const { code } = await status;
    await pipe.close().catch(() => {});
    return code;
  })();
  const pid = await readPid(join(options.home, "pid"), ended);
  const stop = async (signal?: Deno.Signal) => {
    if (signal) kill(pid, signal);
    else await pipe.close().catch(() => {});
    await ended;
  };
  return { pid, exited: ended, stop, [Symbol.asyncDispose]: () => stop() };
}

function spawn({ home, command, gentle, firm, patience, account, throwaway }: Supervised): Deno.ChildProcess {
  return new Deno.Command("sh", {
    args: ["-c", supervisor, "sh", home, gentle, firm, String(patience), throwaway ?? "", ...command],
    cwd: home,
    clearEnv: true,
    env: serverEnv(home),
    detached: true,
    stdin: "piped",
    stdout: "null",
    stderr: "null",
    uid: account?.uid,
    gid: account?.gid,
  }).spawn();
}

/** Only this: PG* and ETCD_* variables that are meant for clients would change the servers. */
export function serverEnv(home: string): Record<string, string> {
  return {
    PATH: Deno.env.get("PATH") ?? "/usr/bin:/bin",
    HOME: home,
    LC_ALL: "C",
    ...(Deno.build.arch === "aarch64" ? { ETCD_UNSUPPORTED_ARCH: "arm64" } : {}),
  };
}

async function readPid(file: string, ended: Promise<number>): Promise<number> {
  let running = true;
  ended.then(() => running = false);
  while (running) {
    const pid = parseInt(await Deno.readTextFile(file).catch(() => ""));
    if (pid) return pid;
    await pause(5);
  }
  return 0;
}

function kill(pid: number, signal: Deno.Signal): void {
  try {
    Deno.kill(pid, signal);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound) && (error as { code?: string }).code !== "ESRCH") {
      throw error;
    }
  }
}

/**
 * Ends a server that an earlier run left behind. A pid alone proves nothing, as pids are used again: its command
 * line must have `flag` followed by this data folder.
 */
export async function endLeftover(
  pid: number,
  flag: string,
  data: string,
  signals: Deno.Signal[],
): Promise<boolean> {
  if (!await isServer(pid, flag, data)) return false;
  for (const signal of [...signals, "SIGKILL"] as const) {
    kill(pid, signal);
    for (const end = Date.now() + 10_000; Date.now() < end;) {
      if (!await isServer(pid, flag, data)) return true;
      await pause(50);
    }
  }
  throw new Error(`Cannot start embedded servers: process ${pid} still uses '${data}' and does not end`);
}

/** Asked of `sh`, as Deno opens /proc only to programs that may do everything. */
async function isServer(pid: number, flag: string, data: string): Promise<boolean> {
  const script = `tr '\\0' '\\n' <"/proc/$1/cmdline" 2>/dev/null || ps -o args= -p "$1" | tr ' ' '\\n'`;
  const { stdout } = await new Deno.Command("sh", { args: ["-c", script, "sh", String(pid)], stderr: "null" })
    .output();
  const args = new TextDecoder().decode(stdout).split("\n");
  return args.some((arg, at) => arg === flag && args[at + 1] === data);
}

/** The last lines of a server's log, for the message of a failed start. */
export async function logTail(home: string, lines = 12): Promise<string> {
  const text = await Deno.readTextFile(join(home, "log")).catch(() => "");
  return text.trimEnd().split("\n").slice(-lines).map((line) => `\n  ${line}`).join("");
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
