/** Free ports, and waiting until a server that was started truly answers. */

import { get } from "node:http";
import { logTail, pause, type Process } from "./supervise.ts";

/** Below those that Linux gives to outgoing connections: of these one may be taken before a server listens on it. */
const PORTS = { from: 20_000, to: 32_768 };
const TRIES = 100;

/** A loopback port that nobody uses at this moment. */
export function freePort(): number {
  for (let tries = 1;; tries++) {
    const port = PORTS.from + Math.floor(Math.random() * (PORTS.to - PORTS.from));
    try {
      using _ = Deno.listen({ hostname: "127.0.0.1", port });
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse) || tries === TRIES) throw error;
    }
  }
}

export interface Waiting<T> {
  what: "postgres" | "etcd";
  home: string;
  deadlineMs: number;
  signal?: AbortSignal;
  /** Throws as long as the server does not answer */
  probe: () => Promise<T>;
}

/** The probe's first answer. A server that ends, or does not answer in time, is an error with the end of its log. */
export async function untilReady<T>(server: Process, waiting: Waiting<T>): Promise<T> {
  const { what, home, deadlineMs, signal, probe } = waiting;
  let code: number | undefined;
  server.exited.then((value) => code = value);
  let last: unknown;
  for (const end = Date.now() + deadlineMs; Date.now() < end; await pause(20)) {
    signal?.throwIfAborted();
    if (code !== undefined) {
      throw new Error(
        `Cannot start embedded ${what}: it ended with code ${code}, its log ends${await logTail(home)}`,
      );
    }
    try {
      return await probe();
    } catch (error) {
      last = error;
    }
  }
  const seconds = Math.round(deadlineMs / 1000);
  throw new Error(
    `Cannot start embedded ${what}: no answer within ${seconds} s (${
      (last as Error)?.message
    }), its log ends${await logTail(home)}`,
  );
}

/** One HTTP GET, never through a proxy, as fetch() might. */
export function httpGet(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get(url, { agent: false, timeout: 2_000 }, (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (chunk) => body += chunk);
      response.on("end", () => {
        if (response.statusCode === 200) resolve(body);
        else reject(new Error(`HTTP ${response.statusCode}: ${body.trim()}`));
      });
      response.on("error", reject);
    });
    request.on("timeout", () => request.destroy(new Error("no answer")));
    request.on("error", reject);
  });
}
