/** What node:http2 lacks in Deno before 2.7: certificates (lib/etcd/relay.ts), pings, and sending at once. */
import net from "node:net";

export const OLD_HTTP2 = /^2\.[0-6]\./.test(Deno.version.deno);

/**
 * A request leaves in several writes. With Nagle's algorithm on, the second one waits for the server's delayed ACK:
 * 44 ms, where the whole call takes 2. grpc-js opens its connections by `net.connect`, and has no option for it.
 */
if (OLD_HTTP2) {
  const connect = net.connect as (...args: unknown[]) => net.Socket;
  net.connect = ((...args: unknown[]) => {
    const socket = connect(...args);
    return socket.once("connect", () => socket.setNoDelay(true));
  }) as typeof net.connect;
}
