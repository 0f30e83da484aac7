/** Deno's sockets to a server, for lib/etcd/http2.ts. */
import dns from "node:dns/promises";

/** A server that has not taken the connection by then is passed over. */
export const CONNECT_TIMEOUT_MS = 3_000;

export interface Where {
  hostname: string;
  port: number;
}

/** Texts; without a CA the system's are trusted. */
export interface PemTexts {
  ca?: string;
  cert?: string;
  key?: string;
}

/** As Deno's sockets take them. */
export function denoTls({ ca, cert, key }: PemTexts): { caCerts: string[]; cert?: string; key?: string } {
  return { caCerts: ca ? [ca] : [], ...(cert && key && { cert, key }) };
}

/** @param pems undefined: plain text */
export function openSocket(where: Where, pems: PemTexts | undefined): Promise<Deno.Conn> {
  return pems ? openTls(where, pems) : openTcp(where);
}

/**
 * The handshake is part of it: with a server that fails there a call was certainly not sent. Nagle's algorithm, which
 * holds the end of a request back until the server's delayed ACK, 44 ms, can be turned off only before TLS begins, and
 * that way Deno has no client's certificates (denoland/deno#21496).
 */
async function openTls(where: Where, pems: PemTexts): Promise<Deno.TlsConn> {
  const { cert, key, ...own } = { ...denoTls(pems), alpnProtocols: ["h2"] };
  const socket = cert && key
    ? await inTime(Deno.connectTls({ ...where, ...own, cert, key }), CONNECT_TIMEOUT_MS, close)
    : await Deno.startTls(await openTcp(where), { hostname: where.hostname, ...own });
  try {
    const { alpnProtocol } = await inTime(socket.handshake(), CONNECT_TIMEOUT_MS);
    if (alpnProtocol !== "h2") throw new Error("the server does not speak HTTP/2");
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

/** One address of the name after another: Deno 2.6 tries only the first, and of `localhost` that may be ::1. */
async function openTcp({ hostname, port }: Where): Promise<Deno.TcpConn> {
  const addresses = await inTime(dns.lookup(hostname, { all: true }), CONNECT_TIMEOUT_MS);
  let failure: unknown;
  for (const { address } of addresses) {
    try {
      const connecting = Deno.connect({ hostname: address, port });
      const socket = await inTime(connecting, CONNECT_TIMEOUT_MS / addresses.length, close);
      socket.setNoDelay();
      return socket;
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

/** @param discard for what comes too late */
async function inTime<T>(coming: Promise<T>, timeoutMs: number, discard = (_: T) => {}): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new Error(`no connection within ${timeoutMs / 1_000} s`));
    coming.then(discard, () => {});
  }, timeoutMs);
  try {
    return await Promise.race([coming, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

function close(socket: Deno.Conn): void {
  socket.close();
}
