/** Sockets to a server, for lib/etcd/http2.ts. */
import dns from "node:dns/promises";
import { openTls, type PemTexts } from "./tls.ts";

/** A server that has not taken the connection by then is passed over. */
export const CONNECT_TIMEOUT_MS = 3_000;

interface Where {
  hostname: string;
  port: number;
}

/** What is asked of a connection, as Deno's own has it. */
export interface Socket {
  /** How many bytes were read; null: it has ended. */
  read(into: Uint8Array): Promise<number | null>;
  /** How many of the bytes were written. */
  write(bytes: Uint8Array): Promise<number>;
  close(): void;
}

/**
 * One address of the name after another: Deno 2.6 tries only the first, and of `localhost` that may be ::1.
 * @param pems undefined: plain text
 */
export async function openSocket({ hostname, port }: Where, pems: PemTexts | undefined): Promise<Socket> {
  const addresses = await inTime(dns.lookup(hostname, { all: true }), CONNECT_TIMEOUT_MS);
  let failure: unknown;
  for (const { address } of addresses) {
    const late = new AbortController();
    const opening = pems
      ? openTls({ hostname, address, port }, pems, late.signal)
      : openTcp({ hostname: address, port });
    try {
      return await inTime(opening, CONNECT_TIMEOUT_MS / addresses.length, (late) => late.close());
    } catch (error) {
      late.abort();
      failure = error;
    }
  }
  throw failure;
}

async function openTcp(where: Where): Promise<Socket> {
  const socket = await Deno.connect(where);
  socket.setNoDelay();
  return socket;
}

/** @param discard for what comes too late */
export async function inTime<T>(coming: Promise<T>, timeoutMs: number, discard = (_: T) => {}): Promise<T> {
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
