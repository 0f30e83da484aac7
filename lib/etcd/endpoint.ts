/** One server of the list, and the connection to it. */
import { EtcdError, STATUS } from "./error.ts";
import { Http2Connection } from "./http2.ts";
import { CONNECT_TIMEOUT_MS, inTime, openSocket } from "./socket.ts";
import type { PemTexts } from "./tls.ts";

/** Paths of PEM files; without a CA the system's are trusted. */
export interface TlsFiles {
  ca?: string;
  cert?: string;
  key?: string;
}

/** The connection is made when it is needed, and anew after a failure: the certificates' files are read then. */
export class Endpoint {
  #opening: Promise<Http2Connection> | undefined;

  /**
   * @param address host:port
   * @param windowBytes see lib/etcd/http2.ts
   */
  constructor(
    readonly address: string,
    readonly tls: TlsFiles | undefined,
    readonly windowBytes?: number,
  ) {}

  /** @throws {EtcdError} `unsent`: there is no connection, and why */
  async connected(): Promise<Http2Connection> {
    for (;;) {
      const isNew = !this.#opening;
      const opening = this.#opening ??= this.#open();
      try {
        const connection = await opening;
        if (connection.usable) return connection;
        this.#forget(opening);
        connection.retire(); // its numbers may have run out
        if (isNew) throw new Error("the server takes no calls"); // one that is shutting down says so at once
      } catch (error) {
        this.#forget(opening);
        const reason = (error as Error).message.replace(/ \(os error \d+\)$/, "");
        throw new EtcdError(STATUS.UNAVAILABLE, `${this.address}: ${reason}`, true);
      }
    }
  }

  /** The next use makes a new connection. Calls on the old one come to their end. */
  reset(): void {
    this.#opening?.then((connection) => connection.retire(), () => {});
    this.#opening = undefined;
  }

  #forget(opening: Promise<Http2Connection>): void {
    if (this.#opening === opening) this.#opening = undefined;
  }

  async #open(): Promise<Http2Connection> {
    const [, hostname, port] = /^\[?(.*?)\]?:(\d+)$/.exec(this.address)!;
    const socket = await openSocket({ hostname, port: Number(port) }, this.tls && readFiles(this.tls));
    const connection = new Http2Connection(
      socket,
      this.tls ? "https" : "http",
      this.address,
      this.windowBytes,
    );
    try {
      await inTime(connection.ready, CONNECT_TIMEOUT_MS);
      return connection;
    } catch (error) {
      connection[Symbol.dispose]();
      // by TLS 1.3 a client learns that its certificate is missing only from a connection that ends, or hangs
      const hint = this.tls && !this.tls.cert ? " (it may want a client's certificate)" : "";
      throw new Error(`${(error as Error).message}${hint}`);
    }
  }
}

function readFiles({ ca, cert, key }: TlsFiles): PemTexts {
  return { ca: readPem("cacert", ca), cert: readPem("cert", cert), key: readPem("key", key) };
}

function readPem(name: string, path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new Error(`${name} '${path}' cannot be read (${(error as Error).name})`);
  }
}
