/** `--listen`: what a probe, Prometheus and a person may read. Nothing can be changed here. */
import { Fatal } from "./errors.ts";
import type { Log } from "./log.ts";
import type { Verdict } from "./telemetry/vitals.ts";

export interface Address {
  hostname: string;
  port: number;
}

export interface Pages {
  /** Prometheus' text. */
  metrics: () => Promise<string>;
  healthz: () => Verdict;
  readyz: () => Verdict;
  /** What `etcd-pg-sync status --format json` says. */
  status: () => Promise<unknown>;
  /** The page for people, and what belongs to it; undefined: the request is for none of it. */
  site: (request: Request) => Promise<Response | undefined>;
  /** Whether keys and values are shown. */
  keys: boolean;
}

/** Version 0.0.4 of Prometheus' text format. */
const PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** Serves the pages until it is disposed of. @throws {Fatal} where it cannot listen there */
export function servePages({ hostname, port }: Address, pages: Pages, log: Log): AsyncDisposable {
  const stop = new AbortController();
  const ownNames = pages.keys && isLoopback(hostname);
  const server = listen(hostname, port, () =>
    Deno.serve({
      hostname,
      port,
      signal: stop.signal,
      onListen: (at) => log.info({ listen: `${show(at.hostname)}:${at.port}` }, "pages are served"),
      onError: (error) => {
        log.debug({ error: (error as Error).message }, "a page could not be made");
        return text(500, "the page could not be made; the log says why at level debug");
      },
    }, (request) =>
      ownNames && !isLoopback(new URL(request.url).hostname)
        ? text(421, "keys and values are shown on this machine only: ask for 'localhost'")
        : answer(request, pages)));
  return {
    async [Symbol.asyncDispose]() {
      stop.abort(); // cuts off who still reads
      await server.finished;
    },
  };
}

function listen<T>(hostname: string, port: number, serve: () => T): T {
  try {
    return serve();
  } catch (error) {
    const denied = error instanceof Deno.errors.PermissionDenied;
    const why = error instanceof Deno.errors.AddrInUse
      ? "another program listens there"
      : denied
      ? "a port below 1024 needs rights"
      : "it is not an address of this machine";
    throw new Fatal(
      denied ? "permission" : "configuration",
      `Cannot listen on '${show(hostname)}:${port}' (listen): ${why}`,
    );
  }
}

/**
 * Whether it means this machine. A foreign page can let its own name mean this machine too, and read all that is served
 * under that name.
 */
function isLoopback(hostname: string): boolean {
  return /^(localhost|127\.\d+\.\d+\.\d+|\[?::1\]?)$/i.test(hostname);
}

function show(hostname: string): string {
  return hostname.includes(":") ? `[${hostname}]` : hostname;
}

async function answer(request: Request, pages: Pages): Promise<Response> {
  if (request.method !== "GET" && request.method !== "HEAD") {
    return text(405, "only GET and HEAD", { allow: "GET, HEAD" });
  }
  return await page(request, pages); // of HEAD the server leaves the body out
}

async function page(request: Request, pages: Pages): Promise<Response> {
  switch (new URL(request.url).pathname) {
    case "/metrics":
      return text(200, await pages.metrics(), { "content-type": PROMETHEUS_TYPE });
    case "/healthz":
      return verdict(pages.healthz());
    case "/readyz":
      return verdict(pages.readyz());
    case "/status":
      return text(200, JSON.stringify(await pages.status(), null, 2), { "content-type": "application/json" });
    default:
      return await pages.site(request) ?? text(404, "pages: / /metrics /healthz /readyz /status");
  }
}

function verdict({ good, why }: Verdict): Response {
  return text(good ? 200 : 503, why);
}

function text(status: number, body: string, headers: Record<string, string> = {}): Response {
  return new Response(body.endsWith("\n") ? body : `${body}\n`, {
    status,
    headers: { "content-type": "text/plain; charset=utf-8", "cache-control": "no-store", ...headers },
  });
}
