/** One etcd server on loopback. */

import { join, resolve } from "node:path";
import { freePort, httpGet, untilReady } from "./ready.ts";
import { endLeftover, type Process, supervise } from "./supervise.ts";

export interface EtcdOptions {
  binary: string;
  /** Kept between runs: data, log and pid file */
  dir: string;
  args?: string[];
  /** The port for clients; a free one if not given */
  port?: number;
  /** The folder above `dir`, when both are to be gone with the server */
  throwaway?: string;
  deadlineMs?: number;
  signal?: AbortSignal;
}

export interface EtcdServer extends Process {
  port: number;
  /** `http://127.0.0.1:PORT` */
  endpoint: string;
  /** `etcd://127.0.0.1:PORT/` */
  dsn: string;
  version: string;
  log: string;
}

/** Starts etcd, and returns when it is healthy. A server left behind in the same folder is ended first. */
export async function startEtcd(options: EtcdOptions): Promise<EtcdServer> {
  const home = resolve(options.dir);
  const data = join(home, "data");
  await Deno.mkdir(home, { recursive: true });
  await endEtcdLeftover(home);
  const port = options.port ?? freePort();
  const server = await supervise({
    home,
    command: [options.binary, ...etcdArgs(data, port), ...options.args ?? []],
    gentle: "TERM",
    firm: "KILL",
    patience: 10,
    throwaway: options.throwaway,
  });
  const endpoint = `http://127.0.0.1:${port}`;
  try {
    const version = await untilReady(server, {
      what: "etcd",
      home,
      deadlineMs: options.deadlineMs ?? 30_000,
      signal: options.signal,
      probe: () => etcdVersion(endpoint),
    });
    const dsn = `etcd://127.0.0.1:${port}/`;
    return { ...server, port, endpoint, dsn, version, log: join(home, "log") };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** Ends what an earlier run left in this folder; says whether there was anything. */
export async function endEtcdLeftover(home: string): Promise<boolean> {
  const pid = parseInt(await Deno.readTextFile(join(home, "pid")).catch(() => ""));
  if (!pid) return false;
  const ended = await endLeftover(pid, "--data-dir", join(home, "data"), ["SIGTERM"]);
  await Deno.remove(join(home, "pid")).catch(() => {});
  return ended;
}

function etcdArgs(data: string, port: number): string[] {
  const client = `http://127.0.0.1:${port}`;
  const peer = `http://127.0.0.1:${freePort()}`;
  const flags = {
    name: "default",
    "data-dir": data,
    "listen-client-urls": client,
    "advertise-client-urls": client,
    "listen-peer-urls": peer,
    "initial-advertise-peer-urls": peer,
    "initial-cluster": `default=${peer}`,
    logger: "zap",
    "log-level": "warn",
  };
  return Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, value]);
}

/** The version, of a server that says it is healthy: it has a leader and can write. */
async function etcdVersion(endpoint: string): Promise<string> {
  const health = JSON.parse(await httpGet(`${endpoint}/health`));
  if (String(health.health) !== "true") throw new Error(`not healthy: ${health.reason ?? ""}`);
  return JSON.parse(await httpGet(`${endpoint}/version`)).etcdserver;
}
