/** Errors of a dying connection that grpc-js and Deno's http2 throw where nobody can catch them. */
import { sentence } from "../errors.ts";
import type { Log } from "../log.ts";

/**
 * Keeps such an error from ending the process: the connection is as good as lost, which deadlines and the watchdog
 * see. One is a server that refuses a client's certificate: it hangs up between two events, and grpc-js reads the socket
 * that is gone.
 */
export function guardTransport(log?: Log): void {
  const guard = (error: unknown, event: Event) => {
    if (!(error instanceof Error) || !OF_TRANSPORT.test(error.stack ?? "")) return;
    event.preventDefault();
    log?.debug({ error: sentence(error) }, "a connection to etcd broke");
  };
  globalThis.addEventListener("error", (event) => guard(event.error, event));
  globalThis.addEventListener("unhandledrejection", (event) => guard(event.reason, event));
}

const OF_TRANSPORT = /@grpc[/+]grpc-js|node:http2|deno_node\/http2/;
